"""What a run shows in W&B, TensorBoard or a CSV file, and under which names. A view: the run folder is the record.

While a run computes, the numbers of :data:`LIVE_TOTALS` appear as ``live/<name>`` and those of :data:`LIVE_METRICS` as
``live/<method>/<name>``, over the number of records. A finished run is logged once, in the first process: keys are
``eval/<method>/<metric>`` with the metrics of :data:`METRICS`, the scores by kind as
``eval/<method>/accuracy_by_kind/<kind>`` and the benchmark's own metrics as ``eval/<method>/extra/<name>``; W&B also
gets the tables ``methods`` and ``samples``, the charts of :data:`CHARTS` and the figures of an analysis
(``figures/<name>``), TensorBoard one curve per family of methods.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import netrc
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lit_simignore.discovery import nearest
from lit_simignore.types import UserError

KINDS = ("none", "wandb", "csv", "tensorboard")

METRICS: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "accuracy_low": ("ci_low",),
    "accuracy_high": ("ci_high",),
    "delta": ("delta",),
    "p_holm": ("p_holm",),
    "fixed": ("fixed",),
    "broken": ("broken",),
    "samples": ("n",),
    "errors": ("errors",),
    "unparsed": ("unparsed",),
    "split": ("split",),
    "needed_recall": ("needed_recall",),
    "needed_carried": ("needed_carried",),
    "visual_tokens_total": ("budget", "total"),
    "visual_tokens_input": ("budget", "input"),
    "visual_tokens_final": ("budget", "final"),
    "visual_tokens_layer_mean": ("budget", "layer_mean"),
    "visual_tokens_flops": ("budget", "flops"),
    "prefill_tflops": ("budget", "prefill_tflops"),
    "prefill_ms": ("efficiency", "prefill_ms"),
    "prefill_ms_p10": ("efficiency", "prefill_ms_p10"),
    "prefill_ms_p90": ("efficiency", "prefill_ms_p90"),
    "vision_ms": ("efficiency", "vision_ms"),
    "counted_prefill_tflops": ("efficiency", "counted_prefill_tflops"),
    "speedup_prefill": ("efficiency", "speedup_prefill"),
    "decode_tokens_per_s": ("efficiency", "decode_tokens_per_s"),
    "pruner_ms": ("efficiency", "pruner_ms"),
    "kv_cache_mib": ("efficiency", "kv_cache_mib"),
    "peak_memory_mib": ("efficiency", "peak_memory_mib"),
}
"""Logged name of every number of a method, and where it stands in that method's row of the summary."""

TRAIN_LOSS = "train/loss"
TRAIN_LR = "train/lr"
TRAIN_KEEP_RATIO = "train/keep_ratio"
TRAIN_KEPT = "train/visual_tokens"
VALIDATION = "validation"
"""Fine-tuning logs per step; a validation logs ``validation/<method>/accuracy`` and a table of sampled answers."""

OUTCOME = "outcome"
"""What a training brought: ``outcome/before/<method>/accuracy`` and ``outcome/after/<method>/accuracy``."""

LIVE_TOTALS = (
    "records", "share_done", "samples_per_s", "peak_process_memory_mib", "peak_device_memory_mib", "dropped",
)  # fmt: skip
"""Of the whole run; ``dropped`` counts points that the logger was too slow for."""

LIVE_METRICS = ("accuracy", "accuracy_low", "accuracy_high", "errors", "latency_ms_p50", "latency_ms_p95")
"""Of one method: accuracy over all answers so far with its 95% interval, latencies over the last ones."""

TABLE = "methods"
SAMPLES = "samples"
SAMPLE_COLUMNS = (
    "sample_id", "method", "image", "question", "right_answer", "baseline_output", "output", "score", "flip", "error",
)  # fmt: skip
KEPT = "kept tokens"
"""The overlay on the images of :data:`SAMPLES`."""

CHARTS: Mapping[str, tuple[str, str]] = {
    "accuracy_against_visual_tokens": ("visual_tokens", "final"),
    "accuracy_against_prefill_tflops": ("prefill_tflops", "prefill_tflops"),
}
"""Charts of accuracy against cost: the name of the cost, and the budget that it is."""

CURVE = "curve"
FIGURES = "figures"


ANSWER_WITHIN_S = 3.0
FINISH_WITHIN_S = 60.0
"""How long W&B may keep silent before the run is written offline, and how long it may take to upload at the end."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One line of the table of samples.

    Args:
        texts: columns of :data:`SAMPLE_COLUMNS` that hold text.
        score: 0 to 1.
        image: what the model was shown.
        mask: 1 over kept visual tokens and 0 over dropped ones, ``uint8`` of the image's height and width.
    """

    texts: Mapping[str, str]
    score: float | None = None
    image: Image.Image | None = None
    mask: np.ndarray | None = None


def live_key(name: str, method: str | None = None) -> str:
    """The full name of a live number.

    Raises:
        KeyError: no such number.
    """
    if name not in (LIVE_TOTALS if method is None else LIVE_METRICS):
        raise KeyError(name)
    return f"live/{name}" if method is None else f"live/{method}/{name}"


def check_logger(kind: str) -> None:
    """Refuse a logger that cannot be made, before anything is computed for it.

    Raises:
        UserError: an unknown kind, or TensorBoard is not installed.
    """
    if kind not in KINDS:
        raise UserError(f"unknown logger {kind!r}; {nearest(kind, KINDS)}")
    if kind == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
        raise UserError("logger=tensorboard needs the package tensorboard: pip install tensorboard")


def build_logger(
    kind: str,
    run_dir: Path,
    *,
    run_id: str = "",
    project: str = "lit_simignore",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    offline: bool = False,
) -> Logger | None:
    """The logger of a run; it writes into the run folder.

    Args:
        kind: ``none``, ``wandb``, ``csv`` or ``tensorboard``.
        run_dir: the run folder.
        run_id: identity of the run: W&B joins what is logged under one id in one project.
        project: in W&B.
        entity: user or team in W&B; ``None`` takes the account's default.
        group: in W&B.
        tags: in W&B.
        offline: write W&B's files only, for ``wandb sync``; the same happens without a key, instead of asking for one,
            and when W&B does not answer within :data:`ANSWER_WITHIN_S`.

    Raises:
        UserError: an unknown kind, or TensorBoard is not installed.
    """
    check_logger(kind)
    if kind == "csv":
        return ContinuedCSV(run_dir)
    if kind == "tensorboard":
        return TensorBoardLogger(save_dir=run_dir, name="", version="tensorboard")
    if kind == "none":
        return None
    (run_dir / "wandb").mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=run_dir.name,
        save_dir=run_dir,
        id=hashlib.sha256(f"{run_dir.name} {run_id}".encode()).hexdigest()[:16],
        project=project,
        entity=entity,
        group=group,
        tags=list(tags),
        job_type="eval",
        settings=_wandb_settings(),
        mode="online" if not offline and _signed_in() and _answers() else "offline",
    )


class ContinuedCSV(CSVLogger):
    """``metrics.csv``, on disk after every line; Lightning's own would begin anew when a run is continued.

    What an earlier attempt wrote stays up to the first step that is logged now. From there on it is computed again.

    Args:
        run_dir: where the file lies.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(save_dir=run_dir, name="", version="", flush_logs_every_n_steps=1)
        self._path = run_dir / "metrics.csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one line."""
        if self._experiment is None:
            known = _rows_before(self._path, step or 0)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")
                writer: Any = self.experiment  # removes the file
            writer.metrics.extend(known)
        super().log_metrics(dict(metrics), step)


def _rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """Lines of a CSV file whose ``step`` is smaller, without what is empty; a line that a kill cut off is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [row for row in rows if str(row.get("step")).isdecimal() and int(row["step"]) < step]
    return [{key: value for key, value in row.items() if key and value} for row in found]


def _wandb_settings() -> Any:
    """No waiting for ever, and rows on disk within seconds, so that a killed run keeps them."""
    import wandb

    wish = {
        "init_timeout": 30.0,
        "login_timeout": 10.0,
        "finish_timeout": FINISH_WITHIN_S,
        "x_transaction_log_flush_interval": 1.0,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wish.items() if name in known})


def _host() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _answers() -> bool:
    """Whether W&B's host says anything at all, by whatever proxy the environment names."""
    try:
        with urllib.request.urlopen(_host(), timeout=ANSWER_WITHIN_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _signed_in() -> bool:
    """Whether W&B can go online without asking: a key in the environment or in ``.netrc``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = _host().split("//")[-1].strip("/").split(":")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def start_live(logger: Logger) -> None:
    """Open the run, so that it can be seen before there is anything to show."""
    if isinstance(logger, WandbLogger):
        with _staged_in(Path(str(logger.save_dir)) / "wandb"):
            run = logger.experiment
            run.define_metric(live_key("records"))
            run.define_metric("live/*", step_metric=live_key("records"))


def log_live(logger: Logger, point: Mapping[str, float]) -> None:
    """Log one point of a run that is going on; a CSV file, which has a line per method, gets none."""
    if isinstance(logger, WandbLogger):
        logger.experiment.log(dict(point))
    elif not isinstance(logger, CSVLogger):
        logger.log_metrics(dict(point), step=round(point[live_key("records")]))


def log_validation(
    logger: Logger, step: int, scores: Mapping[str, float | None], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Log the accuracies of a validation while training, and to W&B some of its answers.

    Args:
        logger: of the training.
        step: optimiser steps taken.
        scores: accuracy by method.
        columns: of ``rows``.
        rows: answers.
    """
    logger.log_metrics({f"{VALIDATION}/{name}/accuracy": v for name, v in scores.items() if v is not None}, step=step)
    if isinstance(logger, WandbLogger):
        with _staged_in(Path(str(logger.save_dir)) / "wandb"):
            logger.log_table(f"{VALIDATION}/{SAMPLES}", columns=list(columns), data=list(map(list, rows)), step=step)


def log_outcome(logger: Logger, step: int, summaries: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Log the accuracies of a model before and after its training.

    Args:
        logger: of the training.
        step: optimiser steps taken.
        summaries: the contents of ``summary.json`` by when it was made; ``None`` where nothing was asked.
    """
    found = {
        f"{OUTCOME}/{when}/{row['name']}/accuracy": row["accuracy"]
        for when, summary in summaries.items()
        for row in (summary or {"methods": ()})["methods"]
        if row["accuracy"] is not None
    }
    if found:
        logger.log_metrics(found, step=step)
        logger.save()


def log_summary(
    logger: Logger,
    summary: Mapping[str, Any],
    figures: Mapping[str, str] | None = None,
    *,
    samples: Iterable[SampleRow] = (),
    config: Mapping[str, Any] | None = None,
) -> None:
    """Log a run's summary and close the logger.

    Args:
        logger: from :func:`build_logger`.
        summary: the contents of ``summary.json``.
        figures: whole SVG pictures by name, for W&B; it shows them as ``figures/<name>``.
        samples: rows of the table of samples, for W&B.
        config: the resolved configuration, for W&B.
    """
    rows = summary["methods"]
    if isinstance(logger, CSVLogger):
        _log_csv(logger, rows)
    elif isinstance(logger, WandbLogger):
        with _staged_in(Path(str(logger.save_dir)) / "wandb"):
            _log_wandb(logger, summary, figures or {}, samples, config or {})
    else:
        logger.log_metrics({key: value for row in rows for key, value in flat_metrics(row).items()})
        for family, tokens, accuracy in curve_points(rows):
            logger.log_metrics({f"{CURVE}/{family}": accuracy}, step=round(tokens))
    logger.finalize("success")


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Have W&B stage what it uploads in ``folder``: by default that lies in the home directory, apart from the run."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR", None)


def _log_csv(logger: CSVLogger, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per method."""
    for number, row in enumerate(rows):
        logger.log_metrics({"method": row["name"], **metrics_of(row)}, step=number)


def _log_wandb(
    logger: WandbLogger, summary: Mapping[str, Any], figures: Mapping[str, str], samples: Iterable[SampleRow],
    config: Mapping[str, Any],
) -> None:  # fmt: skip
    import wandb

    run, rows = logger.experiment, summary["methods"]
    run.config.update({**config, "run": dict(summary["run"])}, allow_val_change=True)
    logger.log_metrics({key: value for row in rows for key, value in flat_metrics(row).items()})
    table = [[row["name"], *(_at(row, path) for path in METRICS.values())] for row in rows]
    logger.log_table(TABLE, columns=["method", *METRICS], data=table)
    for chart, (cost, budget) in CHARTS.items():
        points = curve_points(rows, budget)
        if points:
            data = wandb.Table(columns=["family", cost, "accuracy"], data=[list(point) for point in points])
            run.log({chart: wandb.plot.scatter(data, cost, "accuracy", title=chart.replace("_", " ").capitalize())})
    if figures:
        run.log({f"{FIGURES}/{name}": wandb.Html(drawn, inject=False) for name, drawn in figures.items()})
    shown = [_sample_row(row) for row in samples]
    if shown:
        run.log({SAMPLES: wandb.Table(columns=list(SAMPLE_COLUMNS), data=shown)})
    run.finish()


def _sample_row(row: SampleRow) -> list[Any]:
    """One line of the table of samples; the kept tokens are a mask that can be switched on over the picture."""
    import wandb

    picture = None
    if row.image is not None:
        names = {0: "dropped", 1: "kept"}
        masks = None if row.mask is None else {KEPT: {"mask_data": row.mask, "class_labels": names}}
        picture = wandb.Image(row.image, masks=masks)
    values = {**row.texts, "image": picture, "score": row.score}
    return [values.get(name) for name in SAMPLE_COLUMNS]


def flat_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The known numbers of one method under their full keys."""
    return {f"eval/{row['name']}/{name}": value for name, value in metrics_of(row).items()}


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The known numbers of one method; what was not measured is left out."""
    found = {name: _at(row, path) for name, path in METRICS.items()}
    found |= {f"accuracy_by_kind/{kind}": value.get("accuracy") for kind, value in (row.get("by_kind") or {}).items()}
    found |= {f"extra/{name}": value for name, value in (row.get("extra") or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def curve_points(rows: Sequence[Mapping[str, Any]], budget: str = "final") -> list[tuple[str, float, float]]:
    """``(family, cost, accuracy)`` by ascending cost; ``simignore@64`` is of the family ``simignore``.

    Args:
        rows: of the summary.
        budget: the entry of a row's budget that is the cost; by default the visual tokens after the last layer.
    """
    points = []
    for row in rows:
        cost, accuracy = _at(row, ("budget", budget)), row.get("accuracy")
        if cost is not None and accuracy is not None:
            points.append((str(row["name"]).split("@")[0], cost, accuracy))
    return sorted(points, key=lambda point: (point[1], point[0]))


def _at(row: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """The number at the end of a path, ``None`` where the path ends early."""
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, (int, float)) else None
