"""Batches for the tiny models of every family, which are made in :mod:`tests.tiny_family_models`.

Vision inputs are random tensors in the shapes that the family's processor makes; prompts carry the same marks around
an image as the processor writes. :mod:`tests.tiny_checkpoints` goes through real processors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.masked_reference import IMAGE_ID
from tests.tiny_family_models import (
    BOS,
    BREAK,
    BUILDERS,
    CLOSE,
    FIRST_WORD,
    OPEN,
    PAD,
    VOCAB,
    tiny_family,
)

__all__ = ["BUILDERS", "FIRST_WORD", "FamilyBatch", "tiny_family", "tiny_family_batch"]

# -- images


@dataclass
class Pictures:
    """Images of one batch.

    Args:
        inputs: what the model's forward is given.
        marks: per image, the ids that stand for it in a prompt.
        grids: per image, (rows, cols) of its visual tokens; ``None`` where they form no grid.
    """

    inputs: dict[str, Tensor]
    marks: list[list[int]]
    grids: list[tuple[int, int] | None]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _squares(side: int, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Callable[..., Pictures]:
    """One square of visual tokens per image, between the same marks."""

    def draw(model: Any, counts: Sequence[int]) -> Pictures:
        total = sum(counts)
        marks = [[*before, *[IMAGE_ID] * side**2, *after]] * total
        return Pictures({"pixel_values": _noise(total, 3, 24, 24)}, marks, [(side, side)] * total)

    return draw


def _tiles(model: Any, counts: Sequence[int]) -> Pictures:
    sizes = torch.tensor([[24, 48], [40, 44], [48, 24]])[: sum(counts)]
    inputs = {"pixel_values": _noise(len(sizes), 5, 3, 24, 24), "image_sizes": sizes}
    with torch.no_grad():
        features = model.base_model.get_image_features(**inputs, return_dict=True).pooler_output
    return Pictures(inputs, [[IMAGE_ID] * len(rows) for rows in features], [None] * len(sizes))


def _patches(model: Any, counts: Sequence[int]) -> Pictures:
    sizes = torch.tensor([[1, 8, 8], [1, 4, 12], [1, 6, 8]])[: sum(counts)]
    grids = [(int(size[1]) // 2, int(size[2]) // 2) for size in sizes]
    inputs = {"pixel_values": _noise(int(sizes.prod(-1).sum()), 3 * 2 * 4 * 4), "image_grid_thw": sizes}
    return Pictures(inputs, [[OPEN, *[IMAGE_ID] * rows * cols, CLOSE] for rows, cols in grids], list(grids))


def _padded(model: Any, counts: Sequence[int]) -> Pictures:
    """One overview per image; samples with fewer images are filled up with empty ones."""
    pixels = torch.zeros(len(counts), max(counts), 3, 24, 24)
    for row, count in enumerate(counts):
        pixels[row, :count] = _noise(3, 3, 24, 24)[:count] + row
    marks = [[BREAK, OPEN, *[IMAGE_ID] * 4, BREAK]] * sum(counts)
    return Pictures({"pixel_values": pixels}, marks, [(2, 2)] * sum(counts))


def _rows(model: Any, counts: Sequence[int]) -> Pictures:
    sizes = torch.tensor([[32, 32], [16, 32], [32, 16]])[: sum(counts)]
    grids = [(int(size[0]) // 8, int(size[1]) // 8) for size in sizes]
    marks = [[*([*[IMAGE_ID] * cols, BREAK] * rows)[:-1], CLOSE] for rows, cols in grids]
    return Pictures({"pixel_values": _noise(len(sizes), 3, 32, 32), "image_sizes": sizes}, marks, list(grids))


def _queries(model: Any, counts: Sequence[int]) -> Pictures:
    total = len(counts)
    ids = torch.randint(FIRST_WORD, VOCAB, (total, 6), generator=torch.Generator().manual_seed(2))
    inputs = {
        "pixel_values": _noise(total, 3, 24, 24),
        "qformer_input_ids": ids,
        "qformer_attention_mask": torch.ones_like(ids),
    }
    return Pictures(inputs, [[IMAGE_ID] * 8] * total, [None] * total)


DRAWERS: dict[str, Callable[[Any, Sequence[int]], Pictures]] = {
    "llava": _squares(4),
    "llava_next": _tiles,
    "llava_onevision": _tiles,
    "qwen2_vl": _patches,
    "qwen2_5_vl": _patches,
    "qwen3_vl": _patches,
    "internvl": _squares(2, (OPEN,), (CLOSE,)),
    "idefics3": _padded,
    "smolvlm": _padded,
    "gemma3": _squares(2, (OPEN,), (CLOSE,)),
    "paligemma": _squares(4),
    "instructblip": _queries,
    "mistral3": _rows,
}
ONE_IMAGE_EACH = frozenset({"instructblip"})
"""Families whose samples have exactly one image."""


# -- batches


@dataclass
class FamilyBatch:
    """Prompts of different lengths, left-padded.

    Args:
        inputs: keyword arguments for forward and for ``generate``.
        num_visual: visual tokens per sample.
        grids: (rows, cols) of every image per sample; empty where one of them has none.
    """

    inputs: dict[str, Tensor]
    num_visual: list[int]
    grids: list[tuple[tuple[int, int], ...]]

    @property
    def length(self) -> int:
        """Columns of the prompt."""
        return int(self.inputs["input_ids"].shape[1])


def tiny_family_batch(name: str, model: Any, counts: Sequence[int] = (2, 1, 0)) -> FamilyBatch:
    """A batch with ``counts`` images per sample (one each where the family has it so), text around and in between."""
    counts = [1] * len(counts) if name in ONE_IMAGE_EACH else list(counts)
    pictures = DRAWERS[name](model, counts)
    random = torch.Generator().manual_seed(3)
    prompts, grids, first = [], [], 0
    for row, count in enumerate(counts):
        prompts.append(_prompt(pictures.marks[first : first + count], row, random))
        shapes = pictures.grids[first : first + count]
        grids.append(() if None in shapes else tuple(shape for shape in shapes if shape is not None))
        first += count
    inputs = {**_pad(prompts), **pictures.inputs}
    visual = inputs["input_ids"] == IMAGE_ID
    inputs |= _token_types(name, visual)
    return FamilyBatch(inputs, visual.sum(1).tolist(), grids)


def _prompt(marks: list[list[int]], row: int, random: torch.Generator) -> list[int]:
    def words(number: int) -> list[int]:
        return torch.randint(FIRST_WORD, VOCAB, (number,), generator=random).tolist()

    ids = [BOS, *words(2 + 3 * (row % 2))]
    for image in marks:
        ids += [*image, *words(1)]
    return [*ids, *words(9 - 2 * (row % 3))]


def _pad(prompts: list[list[int]]) -> dict[str, Tensor]:
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), PAD)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _token_types(name: str, visual: Tensor) -> dict[str, Tensor]:
    if name.startswith("qwen"):
        return {"mm_token_type_ids": visual.int()}
    if name == "gemma3":
        return {"token_type_ids": visual.long()}
    if name == "paligemma":  # the whole prompt is prefix
        return {"token_type_ids": torch.zeros_like(visual, dtype=torch.long)}
    return {}
