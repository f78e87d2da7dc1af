"""The nouns that every layer of the package shares. No framework beyond torch, no knowledge of models or benchmarks.

Letters in shapes: B batch, L sequence, I visual tokens, T text tokens, D hidden, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # what only reads records (the report) needs no torch
    from PIL import Image
    from torch import Tensor

ImageSource: TypeAlias = "Path | Image.Image | Callable[[], Image.Image]"
"""A file, a picture in memory, or a function that draws one (never read from a configuration)."""


class UserError(ValueError):
    """Something the user can mend. Its message is one line: what was expected, what came, what to do."""


class Role(str, Enum):
    """What a piece of the prompt is. The value labels every token of the piece."""

    CONTEXT = "context"
    QUESTION = "question"
    OPTIONS = "options"
    TEMPLATE = "template"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the user's message with its role. Segments are joined without anything in between."""

    text: str
    role: Role


@dataclass(frozen=True, slots=True)
class NeededPatches:
    """The patches that the answer cannot be given without, on the grid of the data's author.

    Args:
        grid: rows and columns of the author's patch grid.
        indices: row-major patch indices in that grid, ascending.
        image: which image of the sample is meant.
    """

    grid: tuple[int, int]
    indices: tuple[int, ...]
    image: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about zero or more images.

    Args:
        sample_id: unique within its benchmark and stable over runs: sharding and resuming go by it.
        segments: the user's message after the images, in order.
        images: shown before the message, in order.
        group_id: samples that share it are not independent (same image or scene): resampling draws whole groups.
        choices: texts of the options, without letters.
        answer: the right answer in the form that the benchmark's parser returns; ``None`` where there is none.
        kind: question type, for break-downs.
        needed: patches that the answer depends on, where the data knows them.
        references: all answers that count for something, where there is more than one.
    """

    sample_id: str
    segments: tuple[Segment, ...]
    images: tuple[ImageSource, ...] = ()
    group_id: str = ""
    choices: tuple[str, ...] = ()
    answer: str | None = None
    kind: str = ""
    needed: tuple[NeededPatches, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The user's message as one string."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Answers that a model is to choose from by their likelihood.

    Args:
        names: what each is called: the output of a model that chooses it.
        texts: what is taken to stand behind the prompt, of which the likelihood is asked.
        per_token: compare log-probabilities per token, not their sums.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    per_token: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Which visual tokens of one sample survive one stage.

    Args:
        kept: ``(K,)`` int64, ascending indices into that stage's visual tokens.
        scores: ``(I,)`` higher is kept; ``None`` where the rule has no score per token.
        merged: ``(K, D)`` values that replace the kept tokens' rows; ``None`` when rows are left as they are.
        sources: for merging rules, the original tokens (ascending) that each of the K rows carries.
    """

    kept: Tensor
    scores: Tensor | None = None
    merged: Tensor | None = None
    sources: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How many visual tokens a method really spends, under every definition in use (means over the samples of a call).

    Args:
        total: visual tokens that the model would have seen without pruning.
        input: visual tokens that enter decoder layer 0.
        final: visual tokens that leave the last layer.
        layer_mean: mean over decoder layers of the visual tokens that the layer computes.
        flops: visual tokens that an input-pruned model of the same prefill FLOPs would see.
        prefill_tflops: analytic prefill cost of the decoder, in 1e12 floating-point operations per sample; a second
            run of the prompt (VCD, PAI's guidance) counts here and in no other field.
    """

    total: float
    input: float
    final: float
    layer_mean: float
    flops: float
    prefill_tflops: float


@dataclass(slots=True)
class Prediction:
    """One record of a run: one sample under one method. Field names are the keys of ``predictions-*.jsonl``."""

    sample_id: str
    method: str
    group_id: str
    prompt: str
    answer: str | None
    output: str = ""
    parsed: str | None = None
    score: float | None = None
    num_visual_tokens: int = 0
    num_kept: int = 0
    batch_size: int = 0
    latency_ms: float = 0.0
    error: str | None = None
    attempt: str = ""
    kind: str = ""
    choices: Sequence[str] = ()
    kept: Sequence[int] | None = None
    needed_recall: float | None = None
    needed_carried: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """A named composition of pruners and interventions; the untouched model is the method without parts.

    Args:
        name: as on the command line; the key of its records.
        parts: pruner and intervention instances, in the order in which they are attached.
    """

    name: str
    parts: tuple[object, ...] = ()
