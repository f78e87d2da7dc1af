"""The number that a search by results goes by, from what a job wrote: under the name by which W&B gets it."""

from __future__ import annotations

import json
from pathlib import Path

from lit_simignore.tracking import VALIDATION, flat_metrics

SUMMARIES = ("summary.json", "after/summary.json")
"""Where an evaluation and a fine-tuning leave their numbers."""

_VALIDATIONS = "validation.jsonl"


def metric_of(name: str, run_dir: Path) -> float | None:
    """The last value of ``eval/METHOD/NAME`` or ``validation/METHOD/accuracy`` in a run folder; ``None`` without one.

    Args:
        name: as it is logged.
        run_dir: of a complete job.
    """
    kind, _, rest = name.partition("/")
    if kind == VALIDATION:
        return _last_validation(run_dir / _VALIDATIONS, rest.removesuffix("/accuracy"))
    for file in SUMMARIES:
        if (run_dir / file).is_file():
            rows = json.loads((run_dir / file).read_text(encoding="utf-8"))["methods"]
            return next((found[name] for row in rows if name in (found := flat_metrics(row))), None)
    return None


def _last_validation(file: Path, method: str) -> float | None:
    found = None
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)["accuracy"].get(method)
            found = found if value is None else float(value)
    return found
