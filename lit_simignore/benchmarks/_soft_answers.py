"""What benchmarks share whose questions were answered by ten people: VQA's soft accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lit_simignore.benchmarks._choice import by_kind
from lit_simignore.benchmarks._rows import Row
from lit_simignore.benchmarks._sourced import SourcedBenchmark
from lit_simignore.metrics.vqa import normalise_answer, vqa_accuracy
from lit_simignore.types import Prediction, Sample, UserError


@dataclass(kw_only=True)
class SoftAnswerBenchmark(SourcedBenchmark):
    """Base of the benchmarks that are scored by VQA's soft accuracy. Their answers are kept in normal form."""

    max_new_tokens: ClassVar[int] = 16

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """VQA's soft accuracy against what people said; ``None`` where that is secret."""
        if not sample.references:
            return None
        return 0.0 if parsed is None else vqa_accuracy(parsed, sample.references)

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Soft accuracy by kind."""
        return by_kind(predictions)


def read_answer(output: str) -> str | None:
    """The output in normal form; ``None`` for blank. What is only an article is the empty answer, as people's are."""
    return normalise_answer(output) if output.strip() else None


def human_answers(row: Row) -> tuple[str, ...]:
    """What people said, in normal form; empty where it is secret.

    Raises:
        UserError: neither a list of texts nor one of objects with ``answer``.
    """
    value: Any = row.get("answers")
    if isinstance(value, Mapping):  # a column of objects may come as an object of columns
        value = value.get("answer")
    if value is None or len(value) == 0 or all(text == "" for text in value):
        return ()
    texts = [item.get("answer") if isinstance(item, Mapping) else item for item in value]
    known = [text for text in texts if isinstance(text, str)]
    if isinstance(value, str) or len(known) < len(texts):
        raise UserError(f"{row.where}expected answers as a list of texts or of objects with answer; got {value!r:.80}")
    return tuple(map(normalise_answer, known))


def most_frequent(answers: Sequence[str]) -> str | None:
    """The answer that most people gave, the earliest of several; ``None`` where it is secret."""
    return Counter(answers).most_common(1)[0][0] if answers else None
