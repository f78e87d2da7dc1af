"""Samples of a finished run as lines of a table: picture, kept tokens, question, answers, and what pruning changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lit_simignore.engine.store import MEDIA
from lit_simignore.metrics.compare import BASELINE
from lit_simignore.metrics.records import Run, read_run
from lit_simignore.tracking import SampleRow
from lit_simignore.types import Prediction


class _Picture(NamedTuple):
    image: Image.Image
    rows: int
    cols: int


def sample_rows(run_dir: Path, methods: Sequence[str], max_rows: int) -> Iterator[SampleRow]:
    """Lines of all methods, sample by sample, those with pictures first; of several images the first is shown.

    Args:
        run_dir: the run folder; pictures are those that lie in its ``media/``.
        methods: names in their order.
        max_rows: stop after so many lines.
    """
    run, index = read_run(run_dir), _index(run_dir)
    order = [*index, *dict.fromkeys(sample for sample, _ in run.predictions if sample not in index)]
    left = max_rows
    for sample in order:
        picture = _picture(run_dir, index.get(sample, []))
        for method in methods:
            record = run.predictions.get((sample, method))
            if left > 0 and record is not None:
                left -= 1
                yield _row(record, run, picture)
        if left < 1:
            return


def _row(record: Prediction, run: Run, picture: _Picture | None) -> SampleRow:
    baseline = run.predictions.get((record.sample_id, BASELINE))
    texts = {
        "sample_id": record.sample_id,
        "method": record.method,
        "question": record.prompt,
        "right_answer": record.answer or "",
        "baseline_output": baseline.output if baseline is not None else "",
        "output": record.output,
        "flip": flip(baseline, record),
        "error": record.error or "",
    }
    mask = None if picture is None or record.kept is None else kept_mask(record.kept, picture)
    return SampleRow(texts, record.score, picture.image if picture is not None else None, mask)


def flip(baseline: Prediction | None, record: Prediction) -> str:
    """``fixed``, ``broken``, or nothing: what the method did to the untouched model's score."""
    if baseline is None or baseline.score is None or record.score is None or baseline.score == record.score:
        return ""
    return "fixed" if record.score > baseline.score else "broken"


def kept_mask(kept: Sequence[int], picture: _Picture) -> np.ndarray | None:
    """1 over the patches that were kept, in the picture's size; ``None`` if its grid is not known."""
    rows, cols = picture.rows, picture.cols
    if rows < 1 or cols < 1:
        return None
    cells = np.zeros(rows * cols, dtype=np.uint8)
    cells[[place for place in kept if 0 <= place < rows * cols]] = 1  # later places belong to later images
    width, height = picture.image.size
    down, across = np.arange(height) * rows // height, np.arange(width) * cols // width
    return cells.reshape(rows, cols)[np.ix_(down, across)]


def _index(run_dir: Path) -> Mapping[str, list[Any]]:
    """``media/index.json``, as the thumbnails were written; nothing where there is none."""
    try:
        found = json.loads((run_dir / MEDIA / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _picture(run_dir: Path, entries: Sequence[Mapping[str, Any]]) -> _Picture | None:
    """The first picture of a sample; only the name of its file is taken, so none can lie elsewhere."""
    if not entries:
        return None
    entry = entries[0]
    try:
        with Image.open(run_dir / MEDIA / Path(str(entry["file"])).name) as file:
            return _Picture(file.convert("RGB"), int(entry["rows"]), int(entry["cols"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None
