"""``flow/`` of a run folder read for the report: checked, since anybody may have written it, and never unpickled."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_simignore.report.formats import number, one_line, shorten

FOLDER = "flow"
_MOST_BYTES = 256 * 2**20
_MOST_SAMPLES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Averages:
    """Means over samples. N layers, H heads; intervals are ``(3, ...)``: mean, low, high at 95%.

    Args:
        layers: ``(N,)``.
        shares: ``(3, N, 4)`` attention of the asked queries on system, image, user and output, 0 to 1.
        even: ``(N, 4)`` what it would be if attention were even.
        sinks: ``(N, H)`` share of the visual tokens that are sinks.
        on_needed: ``(3, M, N)`` share of the heat of M maps on what the answers need; NaN where unknown.
        needed_area: area of that, 0 to 1; ``None`` where unknown.
        num_samples: samples that were averaged over.
    """

    layers: np.ndarray
    shares: np.ndarray
    even: np.ndarray
    sinks: np.ndarray
    on_needed: np.ndarray
    needed_area: float | None
    num_samples: int


@dataclass(frozen=True, slots=True, eq=False)
class CurveEntry:
    """Truncation before one layer: accuracy, and the interval of its difference from the accuracy with all tokens."""

    layer: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Truncated:
    """A sweep of truncation. ``cliff`` and its ends are ``None`` where there is none."""

    curve: Sequence[CurveEntry]
    baseline: float
    tolerance: float
    cliff: int | None
    low: int | None
    high: int | None
    certain: int | None
    num_samples: int


@dataclass(frozen=True, slots=True, eq=False)
class FlowSample:
    """One sample with its maps. I visual tokens.

    Args:
        sample_id: of the sample.
        file: name of its arrays in ``flow/``.
        grids: (rows, cols) per image; empty where visual tokens form no grid.
        layers: ``(N,)``.
        maps: ``(N, I)`` per map, by name.
        image_share: ``(N,)`` attention on the image, 0 to 1.
        needed: ``(I,)`` share of every token's area that the answer needs; ``None`` where unknown.
        clusters: ``(I,)`` cluster of every token; ``None`` without clusters.
        ablation: per set of left-out clusters ``clusters``, ``output``, ``verdict``.
    """

    sample_id: str
    file: str
    grids: Sequence[tuple[int, int]]
    layers: np.ndarray
    maps: Mapping[str, np.ndarray]
    image_share: np.ndarray
    needed: np.ndarray | None
    clusters: np.ndarray | None
    ablation: Sequence[Mapping[str, Any]]


@dataclass(slots=True, eq=False)
class FlowView:
    """Everything that the report shows of an analysis; ``problems`` says what could not be read."""

    averages: Averages | None = None
    truncated: Truncated | None = None
    samples: list[FlowSample] = field(default_factory=list)
    methods: Sequence[str] = ()
    queries: str = "answer"
    problems: list[str] = field(default_factory=list)


class _Unreadable(ValueError):
    """A part of the analysis is not what it should be."""


def read_flow(run_dir: Path) -> FlowView | None:
    """The analysis of a run; ``None`` where there is none."""
    path = run_dir / FOLDER / "flow.json"
    if not path.is_file():
        return None
    view = FlowView()
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
        if not isinstance(parts, Mapping):
            raise TypeError("no object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        view.problems.append(f"flow/flow.json cannot be read ({type(error).__name__}); run with analysis=flow again")
        return view
    readers = {"averages": _read_averages, "truncation": _read_truncation, "samples": _read_samples}
    for name, reader in readers.items():
        part = parts.get(name)
        if not isinstance(part, Mapping):
            continue
        try:
            reader(view, run_dir, part)
        # whatever was written there, the rest of the report is drawn, and the page says what is missing
        except (ValueError, KeyError, TypeError, IndexError, OSError, AttributeError, zipfile.BadZipFile) as error:
            view.problems.append(f"flow, {name}: cannot be read ({type(error).__name__}); run with analysis=flow again")
    return view


def _arrays(run_dir: Path, file: object) -> dict[str, np.ndarray]:
    """The arrays of a file in ``flow/``, numbers only and of bearable size."""
    if not isinstance(file, str) or not re.fullmatch(r"[a-z0-9-]{1,40}\.npz", file):
        raise _Unreadable("no file of an analysis")
    path = run_dir / FOLDER / file
    if not path.resolve().is_relative_to((run_dir / FOLDER).resolve()):
        raise _Unreadable("a file outside the folder")
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
            raise _Unreadable("too large")
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _shaped(array: np.ndarray, *shape: int | None) -> np.ndarray:
    """The array as floats, if its shape is that; ``None`` stands for any length."""
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        raise _Unreadable(f"expected shape {shape}, got {array.shape}")
    return array.astype(np.float64)


def _read_averages(view: FlowView, run_dir: Path, part: Mapping[str, Any]) -> None:
    found = _arrays(run_dir, part["file"])
    layers = _shaped(found["layers"], None).astype(int)
    area = _shaped(found["needed_area"], None)
    known = area[~np.isnan(area)]
    view.averages = Averages(
        layers=layers,
        shares=_shaped(found["shares_interval"], 3, len(layers), 4),
        even=_shaped(found["even"], None, len(layers), 4).mean(axis=0),
        sinks=_shaped(found["sinks"], None, len(layers), None).mean(axis=0),
        on_needed=_shaped(found["on_needed_interval"], 3, None, len(layers)),
        needed_area=float(known.mean()) if len(known) else None,
        num_samples=int(part["num_samples"]),
    )
    left_out = part.get("left_out")
    if isinstance(left_out, Mapping) and left_out:
        name, why = next(iter(left_out.items()))
        said = shorten(one_line(f"{name}: {why}"), 240)
        view.problems.append(f"{len(left_out)} of the averaged samples left out; the first one, {said}")
    view.queries = str(part.get("question", {}).get("queries", "answer"))


def _read_truncation(view: FlowView, run_dir: Path, part: Mapping[str, Any]) -> None:
    cliff = part["cliff"]
    if cliff is None:
        view.problems.append("Truncation: fewer than two scored scenes, so that there is no curve to read.")
        return
    entries = [_entry(point) for point in cliff["curve"]]
    if not entries:
        raise _Unreadable("no curve")
    ends = {name: _layer(cliff[name]) for name in ("low", "high", "certain")}
    view.truncated = Truncated(
        curve=entries,
        baseline=_finite(part["baseline"]),
        tolerance=_finite(cliff["tolerance"]),
        cliff=_layer(cliff["layer_idx"]),
        num_samples=int(part["num_samples"]),
        **ends,
    )


def _entry(point: Mapping[str, Any]) -> CurveEntry:
    return CurveEntry(int(point["layer_idx"]), *(_finite(point[name]) for name in ("value", "low", "high")))


def _layer(value: object) -> int | None:
    return None if value is None else int(_finite(value))


def _finite(value: object) -> float:
    found = number(value)
    if found is None:
        raise _Unreadable("no number")
    return found


def _read_samples(view: FlowView, run_dir: Path, part: Mapping[str, Any]) -> None:
    view.methods = [str(name) for name in part.get("question", {}).get("methods", ())]
    for entry in list(part["samples"])[:_MOST_SAMPLES]:
        view.samples.append(_sample(run_dir, entry))


def _sample(run_dir: Path, entry: Mapping[str, Any]) -> FlowSample:
    found = _arrays(run_dir, entry["file"])
    layers = _shaped(found["layers"], None).astype(int)
    cam = _shaped(found["cam"], len(layers), None)
    total = cam.shape[1]
    attention = _shaped(found["attention"], len(layers), None, total).mean(axis=1)
    grids = [(int(rows), int(cols)) for rows, cols in entry["grids"]]
    if grids and sum(rows * cols for rows, cols in grids) != total:
        raise _Unreadable("grids of another number of tokens")
    ablation = entry.get("ablation", ())
    return FlowSample(
        sample_id=str(entry["sample_id"]),
        file=str(entry["file"]),
        grids=grids,
        layers=layers,
        maps={"cam": cam, "attention": attention, "saliency": _shaped(found["saliency"], len(layers), total)},
        image_share=attention.sum(axis=1),
        needed=_shaped(found["needed"], total) if "needed" in found else None,
        clusters=_shaped(found["clusters"], total).astype(int) if "clusters" in found else None,
        ablation=[item for item in ablation if isinstance(item, Mapping)],
    )
