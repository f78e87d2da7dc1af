"""What a run shows in W&B, TensorBoard or a CSV file, and under which names. A view: the run folder is the record.

A finished run is logged once, in the first process. Keys are ``eval/<method>/<metric>`` with the metrics of
:data:`METRICS`, the scores by kind as ``eval/<method>/accuracy_by_kind/<kind>`` and the benchmark's own metrics as
``eval/<method>/extra/<name>``; W&B also gets the table ``methods``, the chart ``accuracy_against_visual_tokens`` and
the figures of an analysis (``figures/<name>``), TensorBoard one curve per family of methods.
"""

from __future__ import annotations

import hashlib
import netrc
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

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
    "needed_recall": ("needed_recall",),
    "needed_carried": ("needed_carried",),
    "visual_tokens_total": ("budget", "total"),
    "visual_tokens_input": ("budget", "input"),
    "visual_tokens_final": ("budget", "final"),
    "visual_tokens_layer_mean": ("budget", "layer_mean"),
    "visual_tokens_flops": ("budget", "flops"),
    "prefill_tflops": ("budget", "prefill_tflops"),
    "prefill_ms": ("efficiency", "prefill_ms"),
    "speedup_prefill": ("efficiency", "speedup_prefill"),
    "decode_tokens_per_s": ("efficiency", "decode_tokens_per_s"),
    "pruner_ms": ("efficiency", "pruner_ms"),
    "kv_cache_mib": ("efficiency", "kv_cache_mib"),
    "peak_memory_mib": ("efficiency", "peak_memory_mib"),
}
"""Logged name of every number of a method, and where it stands in that method's row of the summary."""

TRAIN_LOSS = "train/loss"
TRAIN_KEEP_RATIO = "train/keep_ratio"
TRAIN_KEPT = "train/visual_tokens"
VALIDATION = "validation"
"""Fine-tuning logs per step; a validation logs ``validation/<method>/accuracy`` and a table of sampled answers."""

TABLE = "methods"
CHART = "accuracy_against_visual_tokens"
CURVE = "curve"
FIGURES = "figures"


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
        offline: write W&B's files only; so does an account that is not signed in, instead of asking for a key.

    Raises:
        UserError: an unknown kind, or TensorBoard is not installed.
    """
    if kind not in KINDS:
        raise UserError(f"unknown logger {kind!r}; {nearest(kind, KINDS)}")
    if kind == "csv":
        return CSVLogger(save_dir=run_dir, name="", version="")
    if kind == "tensorboard":
        try:
            return TensorBoardLogger(save_dir=run_dir, name="", version="tensorboard")
        except ModuleNotFoundError as error:
            raise UserError("logger=tensorboard needs the package tensorboard: pip install tensorboard") from error
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
        mode="offline" if offline or not _signed_in() else "online",
    )


def _signed_in() -> bool:
    """Whether W&B can go online without asking: a key in the environment or in ``.netrc``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].strip("/").split(":")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_summary(logger: Logger, summary: Mapping[str, Any], figures: Mapping[str, str] | None = None) -> None:
    """Log a run's summary and close the logger.

    Args:
        logger: from :func:`build_logger`.
        summary: the contents of ``summary.json``.
        figures: whole SVG pictures by name, for W&B; it shows them as ``figures/<name>``.
    """
    rows = summary["methods"]
    if isinstance(logger, CSVLogger):
        _log_csv(logger, rows)
    elif isinstance(logger, WandbLogger):
        with _staged_in(Path(str(logger.save_dir)) / "wandb"):
            _log_wandb(logger, summary, figures or {})
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")
        for number, row in enumerate(rows):
            logger.log_metrics({"method": row["name"], **metrics_of(row)}, step=number)


def _log_wandb(logger: WandbLogger, summary: Mapping[str, Any], figures: Mapping[str, str]) -> None:
    import wandb

    run, rows = logger.experiment, summary["methods"]
    run.config.update({"run": dict(summary["run"])}, allow_val_change=True)
    logger.log_metrics({key: value for row in rows for key, value in flat_metrics(row).items()})
    table = [[row["name"], *(_at(row, path) for path in METRICS.values())] for row in rows]
    logger.log_table(TABLE, columns=["method", *METRICS], data=table)
    points = curve_points(rows)
    if points:
        data = wandb.Table(columns=["family", "visual_tokens", "accuracy"], data=[list(point) for point in points])
        run.log({CHART: wandb.plot.scatter(data, "visual_tokens", "accuracy", title="Accuracy against visual tokens")})
    if figures:
        run.log({f"{FIGURES}/{name}": wandb.Html(drawn, inject=False) for name, drawn in figures.items()})
    run.finish()


def flat_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The known numbers of one method under their full keys."""
    return {f"eval/{row['name']}/{name}": value for name, value in metrics_of(row).items()}


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The known numbers of one method; what was not measured is left out."""
    found = {name: _at(row, path) for name, path in METRICS.items()}
    found |= {f"accuracy_by_kind/{kind}": value.get("accuracy") for kind, value in (row.get("by_kind") or {}).items()}
    found |= {f"extra/{name}": value for name, value in (row.get("extra") or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def curve_points(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """``(family, visual tokens, accuracy)`` by ascending tokens; ``simignore@64`` is of the family ``simignore``."""
    points = []
    for row in rows:
        tokens, accuracy = _at(row, ("budget", "final")), row.get("accuracy")
        if tokens is not None and accuracy is not None:
            points.append((str(row["name"]).split("@")[0], tokens, accuracy))
    return sorted(points, key=lambda point: (point[1], point[0]))


def _at(row: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """The number at the end of a path, ``None`` where the path ends early."""
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, (int, float)) else None
