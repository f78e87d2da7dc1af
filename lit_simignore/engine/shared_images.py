"""Questions about one picture: the model reads the picture once, and every question goes on from a copy of its cache.

Benchmarks ask several questions about a picture (POPE six), and the picture is nearly all of a prompt. In a causal
model, what a prompt's beginning leaves in the cache depends on nothing behind it, so it is computed once for all
prompts that begin alike. Answers are those of separate prompts up to rounding, as they are between batch sizes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache

from lit_simignore.engine.generation import Answers, NaNWatch, Prompts, answers_of, generate, prompts_of, synchronize
from lit_simignore.metrics.flops import DecoderShape, decoder_budget
from lit_simignore.surgery.attach import attach, unwrap
from lit_simignore.surgery.calls import cache_in, cache_name
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.refusals import window_of
from lit_simignore.surgery.spans import NO_ROLE, Spans
from lit_simignore.surgery.trace import CallTrace, Trace
from lit_simignore.types import UserError

MASK = "attention_mask"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which rows of a batch begin alike.

    Args:
        leaders: one row of every beginning, ascending.
        member: for every row, the place of its beginning among ``leaders``.
        lengths: tokens of every beginning; at least one token of a prompt stands behind it.
    """

    leaders: tuple[int, ...]
    member: tuple[int, ...]
    lengths: tuple[int, ...]


def can_share(model: nn.Module) -> bool:
    """Whether this model's prompts may share their beginnings, as far as is known before any prompt."""
    base: Any = unwrap(model)
    family, settings = family_of(base.config), getattr(base, "generation_config", None)
    if not family.reusable_beginning or window_of(family.decoder(base).config) is not None:
        return False
    # These look at the whole prompt, in which padding then stands in other places, or choose another kind of cache.
    return not any(getattr(settings, name, None) for name in ("no_repeat_ngram_size", "cache_implementation"))


def digest(images: Sequence[Image]) -> str:
    """Hexadecimal digits that two lists of pictures share only if they show the same."""
    found = hashlib.sha256()
    for image in images:
        found.update(f"{image.mode} {image.size} ".encode())
        found.update(image.tobytes())
    return found.hexdigest()


def find_sharing(model: nn.Module, prompts: Prompts, pictures: Sequence[str]) -> Sharing | None:
    """Rows with the same pictures behind the same text; ``None`` where no two rows begin alike or one has no picture.

    What rows have in common behind their pictures is shared as well: marks that end a picture, a template's words.

    Args:
        model: says which token stands for a picture.
        prompts: the batch.
        pictures: a digest per row of what its images show.
    """
    base: Any = unwrap(model)
    token = family_of(base.config).image_token_id(base.config)
    ids = [row[first:].tolist() for row, first in zip(prompts.inputs["input_ids"], _firsts(prompts), strict=True)]
    if not all(token in row[:-1] for row in ids):
        return None
    ends = [len(row) - row[::-1].index(token) for row in ids]
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for place, (row, end) in enumerate(zip(ids, ends, strict=True)):
        groups.setdefault((pictures[place], tuple(row[:end])), []).append(place)
    if len(groups) == len(ids):
        return None
    member = [0] * len(ids)
    for place, rows in enumerate(groups.values()):
        for row in rows:
            member[row] = place
    lengths = [_common([ids[row] for row in rows], ends[rows[0]]) for rows in groups.values()]
    return Sharing(tuple(rows[0] for rows in groups.values()), tuple(member), tuple(lengths))


def answer_shared(
    model: nn.Module, processor: Any, prompts: Prompts, images: Sequence[Sequence[Image]], sharing: Sharing,
    max_new_tokens: int,
) -> Answers:  # fmt: skip
    """As :func:`~lit_simignore.engine.generation.answer` of the untouched model, reading every picture once.

    Args:
        model: one that :func:`can_share`.
        processor: the model's.
        prompts: the batch.
        images: opened images of every row.
        sharing: which rows begin alike.
        max_new_tokens: of one answer.

    Raises:
        UserError: ``generate`` made another kind of cache than one that grows.
    """
    device = prompts.inputs["input_ids"].device
    synchronize(device)
    start = time.perf_counter()
    leaders = prompts_of(
        processor, [prompts.samples[row] for row in sharing.leaders], [images[row] for row in sharing.leaders], model
    )
    begun = _beginnings(model, leaders, sharing)
    with attach(model, spans=begun.spans) as trace:
        read = generate(model, processor, begun, watch=NaNWatch(), max_new_tokens=1, return_dict_in_generate=True)
    cache = cache_in(read)
    if not isinstance(cache, DynamicCache):
        raise UserError(f"expected generate to fill a DynamicCache; got {type(cache).__name__}: set share_images=false")
    # On the CPU: the layers of a cache may lie on several devices, and such an index serves all of them.
    base, member = unwrap(model), torch.tensor(sharing.member)
    cache.batch_select_indices(member)
    family_of(base.config).select_rows(base, member)
    whole, watch = _continued(prompts, begun, sharing, member), NaNWatch()
    given = {cache_name(type(base).forward): cache}
    ids = generate(model, processor, whole, watch=watch, max_new_tokens=max_new_tokens, **given)
    synchronize(device)
    wall_ms = 1000 * (time.perf_counter() - start)
    return answers_of(ids, whole.width, processor, watch, _trace(base, prompts, trace, sharing), wall_ms)


def _firsts(prompts: Prompts) -> list[int]:
    """Of every row, the column behind its padding."""
    return [prompts.width - int(length) for length in prompts.inputs[MASK].sum(dim=1).tolist()]


def _common(rows: Sequence[Sequence[int]], end: int) -> int:
    """How many tokens all rows begin with, which is at least ``end``; a token stays behind them in every row."""
    most = min(len(row) for row in rows) - 1
    if len(rows) == 1:
        return min(end + 1, most)
    return next((place for place in range(end, most) if len({row[place] for row in rows}) > 1), most)


def _beginnings(model: nn.Module, leaders: Prompts, sharing: Sharing) -> Prompts:
    """The leaders' prompts without what is not shared."""
    inputs, spans = dict(leaders.inputs), leaders.spans
    pieces = [slice(first, first + length) for first, length in zip(_firsts(leaders), sharing.lengths, strict=True)]
    family: Family = family_of(unwrap(model).config)
    types = dict.fromkeys(inputs.keys() & family.answer_inputs.keys(), 0)
    for name, filling in (_filling(leaders) | types).items():
        inputs[name] = _padded([inputs[name][row, piece] for row, piece in enumerate(pieces)], filling)
    roles = _padded([spans.roles[row, piece] for row, piece in enumerate(pieces)], NO_ROLE)
    return Prompts(leaders.samples, inputs, Spans(inputs["input_ids"], roles, spans.keys))


def _continued(prompts: Prompts, begun: Prompts, sharing: Sharing, member: Tensor) -> Prompts:
    """Whole prompts as the cache holds their beginnings: padding stands before them and again behind them."""
    starts = [first + sharing.lengths[place] for first, place in zip(_firsts(prompts), sharing.member, strict=True)]
    whole = {}
    for name, filling in _filling(prompts).items():
        rest = _padded([prompts.inputs[name][row, start:] for row, start in enumerate(starts)], filling)
        whole[name] = torch.cat([begun.inputs[name][member], rest], dim=1)
    return Prompts(prompts.samples, whole, prompts.spans)


def _filling(prompts: Prompts) -> dict[str, int]:
    """What stands in the padding of the inputs that every model takes."""
    hidden = prompts.inputs["input_ids"][prompts.inputs[MASK] == 0]
    padding = int(hidden[0]) if hidden.numel() else 0  # never read: the mask hides it
    return {"input_ids": padding, MASK: 0}


def _padded(pieces: Sequence[Tensor], filling: int) -> Tensor:
    return pad_sequence(list(pieces), batch_first=True, padding_value=filling, padding_side="left")


def _trace(base: Any, prompts: Prompts, read: Trace, sharing: Sharing) -> Trace:
    """What a trace of separate prompts would hold; its budgets are those of a prompt by itself."""
    shape, call = DecoderShape.from_config(base.config), read.last
    lengths = prompts.inputs[MASK].sum(dim=1).tolist()
    visual = [call.num_visual[place] for place in sharing.member]
    budgets = [
        decoder_budget(shape, [count] * shape.num_layers, total=count, text_tokens=length - count)
        for count, length in zip(visual, lengths, strict=True)
    ]
    found = Trace(prompts.spans)
    found.add(CallTrace(num_visual=visual, grids=[call.grids[place] for place in sharing.member], budgets=budgets))
    return found
