"""A run folder read for the report: summary, pictures, settings, and the records of the samples to be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_simignore.metrics.records import RECORD_FILES, Run, read_json_lines, to_prediction
from lit_simignore.report.flow_folder import FlowView, read_flow
from lit_simignore.report.media import Media, read_media
from lit_simignore.report.summary import RunView, read_summary
from lit_simignore.types import Prediction, UserError

_SAMPLES_WITHOUT_INDEX = 24
_TEXT_LIMIT = 60_000


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What the report needs of a run.

    Args:
        view: the summary.
        media: the pictures.
        samples: records of the samples to be shown, by sample id and then by method, both in order.
        config: the text of ``config.yaml``; empty if there is none.
        problem: why there are no samples, in words; empty if there are.
        flow: the analysis of information flow, if there is one.
    """

    view: RunView
    media: Media
    samples: Mapping[str, Mapping[str, Prediction]]
    config: str
    problem: str
    flow: FlowView | None = None


def read_folder(run_dir: Path) -> RunFolder:
    """Read what the report needs; only the records to be shown are held in memory.

    Raises:
        UserError: ``summary.json`` is missing or no summary.
    """
    view, media = read_view(run_dir), read_media(run_dir)
    samples, problem = _samples(run_dir, media, [row.key for row in view.rows])
    return RunFolder(view, media, samples, _text(run_dir / "config.yaml"), problem, read_flow(run_dir))


def read_view(run_dir: Path) -> RunView:
    """Read ``summary.json`` alone.

    Raises:
        UserError: it is missing, no JSON, or no summary.
    """
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"expected a run folder with summary.json, got {run_dir}; run eval first") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected JSON in {path}, got {type(error).__name__}; run eval again") from error
    return read_summary(summary)


def _samples(run_dir: Path, media: Media, methods: Sequence[str]) -> tuple[dict[str, dict[str, Prediction]], str]:
    try:
        predictions = _records(run_dir, media)
    except UserError as error:
        return {}, f"The records cannot be read: {error}"
    wanted = media.index or dict.fromkeys(sample for sample, _ in predictions)
    grouped = {sample: _of_sample(predictions, sample, methods) for sample in wanted}
    shown = {sample: records for sample, records in grouped.items() if records}
    return shown, "" if shown else "This run has no records to show."


def _records(run_dir: Path, media: Media) -> Mapping[tuple[str, str], Prediction]:
    """Merged records of the samples in the index of pictures, else of the first samples met."""
    run, wanted = Run(), set(media.index)
    for path in sorted(run_dir.glob(RECORD_FILES)):
        for number, row in read_json_lines(path, allow_torn=True).rows:
            sample = row.get("sample_id")
            if not media.index and len(wanted) < _SAMPLES_WITHOUT_INDEX:
                wanted.add(str(sample))
            if isinstance(sample, str) and sample in wanted:
                run.add(to_prediction(row, f"{path.name}, line {number}: "))
    return run.predictions


def _of_sample(
    predictions: Mapping[tuple[str, str], Prediction], sample: str, methods: Sequence[str]
) -> dict[str, Prediction]:
    return {name: predictions[sample, name] for name in methods if (sample, name) in predictions}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:_TEXT_LIMIT]
    except OSError:
        return ""
