"""Prune, edit, look at and measure visual tokens of unmodified Hugging Face vision-language models.

    import lit_simignore as ls

    model, processor = ls.load("pico")
    inputs, spans = ls.prepare(processor, samples)
    with ls.attach(model, ls.Simignore(num_keep=72), spans=spans) as trace:
        output = model.generate(**inputs)

Every pruner, intervention and benchmark is here under its class name, found by scanning. Names are imported when they
are first used, so that ``import lit_simignore`` and ``--help`` are quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_simignore.data.conversations_batch import ConversationCollator as ConversationCollator
    from lit_simignore.data.conversations_files import read_conversations as read_conversations
    from lit_simignore.data.conversations_module import ConversationDataModule as ConversationDataModule
    from lit_simignore.data.datamodule import SampleDataModule as SampleDataModule
    from lit_simignore.engine.evaluate import EvaluationSettings as EvaluationSettings
    from lit_simignore.engine.evaluate import evaluate as evaluate
    from lit_simignore.engine.evaluator import LitEvaluator as LitEvaluator
    from lit_simignore.engine.finetune_schedule import PruneSchedule as PruneSchedule
    from lit_simignore.engine.finetune_tuning import Tuning as Tuning
    from lit_simignore.engine.finetuner import LitFinetuner as LitFinetuner
    from lit_simignore.engine.finetuner import Optimization as Optimization
    from lit_simignore.interventions.eah import EAH as EAH
    from lit_simignore.metrics.compare import compare as compare
    from lit_simignore.plugins import add_plugins as add_plugins
    from lit_simignore.pruning.fastv import FastV as FastV
    from lit_simignore.pruning.simignore import Simignore as Simignore
    from lit_simignore.report.html import write_report as write_report
    from lit_simignore.surgery.attach import attach as attach
    from lit_simignore.surgery.capture import capture as capture
    from lit_simignore.surgery.flow import information_flow as information_flow
    from lit_simignore.surgery.load import load as load
    from lit_simignore.surgery.prefill_shape import prompt_shape as prompt_shape
    from lit_simignore.surgery.prepare import prepare as prepare
    from lit_simignore.surgery.trace import Trace as Trace
    from lit_simignore.types import Budget as Budget
    from lit_simignore.types import Method as Method
    from lit_simignore.types import Prediction as Prediction
    from lit_simignore.types import Role as Role
    from lit_simignore.types import Sample as Sample
    from lit_simignore.types import Segment as Segment
    from lit_simignore.types import Selection as Selection
    from lit_simignore.types import UserError as UserError

__version__ = "0.1.0"

_HOME = {
    "load": "surgery.load",
    "prepare": "surgery.prepare",
    "prompt_shape": "surgery.prefill_shape",
    "attach": "surgery.attach",
    "Trace": "surgery.trace",
    "capture": "surgery.capture",
    "information_flow": "surgery.flow",
    "evaluate": "engine.evaluate",
    "EvaluationSettings": "engine.evaluate",
    "LitEvaluator": "engine.evaluator",
    "SampleDataModule": "data.datamodule",
    "LitFinetuner": "engine.finetuner",
    "Optimization": "engine.finetuner",
    "PruneSchedule": "engine.finetune_schedule",
    "Tuning": "engine.finetune_tuning",
    "ConversationDataModule": "data.conversations_module",
    "ConversationCollator": "data.conversations_batch",
    "read_conversations": "data.conversations_files",
    "write_report": "report.html",
    "compare": "metrics.compare",
    "add_plugins": "plugins",
    "Budget": "types",
    "Method": "types",
    "Prediction": "types",
    "Role": "types",
    "Sample": "types",
    "Segment": "types",
    "Selection": "types",
    "UserError": "types",
}
"""The public names and the module below this package that defines each; scanned classes come on top."""

__all__ = [*_HOME, "EAH", "FastV", "Simignore"]  # noqa: PLE0604 - keys of a dict of strings


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name.startswith("_") or name not in (scanned := _scanned()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = scanned[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_scanned()})


def _scanned() -> dict[str, type]:
    """Every pruner, intervention and benchmark by class name."""
    from lit_simignore.benchmarks import BENCHMARKS
    from lit_simignore.interventions import INTERVENTIONS
    from lit_simignore.pruning import PRUNERS

    registries = (PRUNERS(), INTERVENTIONS(), BENCHMARKS())
    return {cls.__name__: cls for registry in registries for cls in registry.values()}
