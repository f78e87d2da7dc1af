"""What a benchmark is: samples, how an output is read, what it is worth. It never knows which model answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_simignore.types import Candidates, Prediction, Sample, UserError


@dataclass(kw_only=True)
class Benchmark(ABC):
    """Base of every benchmark. A subclass is a dataclass: its fields are its configuration.

    Args:
        limit: use only the first ``limit`` samples of the benchmark's stable order; ``None`` uses all.
    """

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"benchmark.limit must be at least 1, or null for all samples; got {self.limit}")

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Name and version of prompt and parser: it changes whenever a number could change.

        A class attribute, or a field where there are several that a user may choose from.
        """

    @property
    def max_new_tokens(self) -> int:
        """Enough for every valid answer. A class attribute where it is always the same."""
        return 16

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of those numbers of :meth:`aggregate` that are quoted most: the terminal shows them too.

        A class attribute where they are always the same.
        """
        return ()

    @abstractmethod
    def load(self) -> Sequence[Sample]:
        """All samples, in a stable order. Images stay unopened."""

    @abstractmethod
    def parse(self, output: str, sample: Sample) -> str | None:
        """The answer that ``output`` gives, or ``None`` if it gives none. Never raises, whatever the string."""

    @abstractmethod
    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """What the parsed answer is worth, 0 to 1; ``None`` for a sample without a known answer."""

    def candidates(self, sample: Sample) -> Candidates | None:
        """The answers that the model chooses from by their likelihood; ``None`` if it is to write one."""
        return None

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Further metrics of one method (named, finite numbers), beyond the mean score."""
        return {}

    def identity(self) -> Mapping[str, object]:
        """What the fingerprint of a run must know about the data: source, revision, seed, split."""
        return {"protocol": self.protocol}
