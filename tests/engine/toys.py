"""A benchmark about random pictures for the tiny random model: fast, and different methods get different scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.engine.evaluate import EvaluationSettings
from lit_simignore.engine.fingerprint import Fingerprint, fingerprint
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.stride import Stride
from lit_simignore.types import Method, NeededPatches, Prediction, Sample
from tests.tiny_models import QUESTIONS, tiny_llava, tiny_processor, tiny_sample

BASELINE = Method("baseline")
STRIDE = Method("stride", (Stride(num_keep=4),))
RANDOM = Method("random", (RandomTokens(num_keep=4),))


@dataclasses.dataclass(kw_only=True)
class Toy(Benchmark):
    """Right is whoever says a first word of even length.

    Args:
        size: samples.
        change: turns each sample into the one that is loaded.
        on_parse: is called with every output.
    """

    size: int = 11
    change: Callable[[Sample], Sample] = lambda sample: sample  # noqa: E731
    on_parse: Callable[[str, Sample], None] = lambda output, sample: None  # noqa: E731

    protocol: ClassVar[str] = "toy-v1"
    max_new_tokens: ClassVar[int] = 3

    def load(self) -> Sequence[Sample]:
        loaded = []
        for i in range(self.size):
            sample = tiny_sample(f"q{i}", QUESTIONS[i % 3])
            extra = {"kind": "even" if i % 2 == 0 else "odd", "needed": (NeededPatches((4, 4), (i % 16,)),)}
            loaded.append(self.change(dataclasses.replace(sample, **extra)))
        return loaded[: self.limit]

    def parse(self, output: str, sample: Sample) -> str | None:
        self.on_parse(output, sample)
        return output.split()[0] if output.split() else None

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        return float(len(parsed or "") % 2 == 0)

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        return {"mean_length": sum(len(p.output) for p in predictions) / len(predictions)}


def model_and_processor() -> tuple[Any, Any]:
    """The tiny model and its processor."""
    return tiny_llava(), tiny_processor()


def settings(**changes: Any) -> EvaluationSettings:
    """Without timing, pictures and progress bar."""
    plain = {"accelerator": "cpu", "batch_size": 4, "efficiency": None, "report_samples": 0, "progress": False}
    return EvaluationSettings(**{**plain, **changes})


def identity(*methods: Method, model: Any = None, processor: Any = None, **changes: Any) -> Fingerprint:
    """A fingerprint of the toy benchmark."""
    chosen = {"model_name": "tiny", "batch_size": 4, "max_new_tokens": 3, **changes}
    given = model or tiny_llava(), processor or tiny_processor(), chosen.pop("benchmark", Toy())
    return fingerprint(*given, methods or (BASELINE,), **chosen)


def without_time(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without what may differ between two runs of the same thing."""
    run = {key: value for key, value in summary["run"].items() if key not in ("created", "name", "hardware")}
    return {"run": run, "methods": [{**row, "efficiency": None} for row in summary["methods"]]}


def lines(run_dir: Path) -> int:
    """Records on disk, counting those that were written twice."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in run_dir.glob("predictions-*.jsonl"))
