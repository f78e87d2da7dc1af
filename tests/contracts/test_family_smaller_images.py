"""A smaller picture, family by family: the decoder gets what the model's own parts make of it, and nothing else."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning.base import Need, Pruner
from lit_simignore.pruning.downsampled_image import DownsampledImage
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.families import FAMILIES
from lit_simignore.surgery.smaller_images import _spread
from lit_simignore.types import Selection
from tests.masked_reference import generate, num_hooks
from tests.tiny_families import BUILDERS, FamilyBatch, tiny_family, tiny_family_batch

QUARTER = DownsampledImage(keep_ratio=0.25)
NAMES = sorted(name for name in BUILDERS if Need.RESIZED_IMAGE in FAMILIES()[name].tower_offers)


@dataclass(kw_only=True)
class Looks(Pruner):
    """Keeps what it is shown, and remembers it."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[Tensor] = []

    def choose(self, features):
        self.seen.append(features.visual)
        return Selection(kept=torch.arange(len(features.visual)))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@cache
def model_of(name: str) -> Any:
    return tiny_family(name)


def smaller(pixels: Tensor) -> Tensor:
    return F.interpolate(pixels, size=(12, 12), mode="bicubic", antialias=True)


def siglip(model: Any, batch: FamilyBatch) -> Tensor:
    pixels = smaller(batch.inputs["pixel_values"])
    return model.model.vision_tower(pixels, interpolate_pos_encoding=True).last_hidden_state


def llava(model: Any, batch: FamilyBatch) -> Tensor:
    pixels = smaller(batch.inputs["pixel_values"])
    shown = model.model.vision_tower(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    return model.model.multi_modal_projector(shown.hidden_states[-1][:, 1:]).flatten(0, 1)


def paligemma(model: Any, batch: FamilyBatch) -> Tensor:
    return model.model.multi_modal_projector(siglip(model, batch)).flatten(0, 1)


def gemma3(model: Any, batch: FamilyBatch) -> Tensor:
    projector = model.model.multi_modal_projector
    return projector.mm_soft_emb_norm(siglip(model, batch).mean(1)) @ projector.mm_input_projection_weight


def internvl(model: Any, batch: FamilyBatch) -> Tensor:
    shown = model.model.vision_tower(smaller(batch.inputs["pixel_values"])).last_hidden_state[:, 1:]
    shuffled = model.model.pixel_shuffle(shown.unflatten(1, (2, 2)), scale_factor=0.5)
    return model.model.multi_modal_projector(shuffled).flatten(0, 2)


def idefics3(model: Any, batch: FamilyBatch) -> Tensor:
    pixels = torch.cat([row[(row != 0).flatten(1).any(1)] for row in batch.inputs["pixel_values"]])
    shown = model.model.vision_model(pixel_values=smaller(pixels)).last_hidden_state
    return model.model.connector(shown).flatten(0, 1)


@contextmanager
def half_the_resolution(model: Any):
    """The sizes that the packing of tiles goes by, all halved."""
    config = model.config
    kept = config.vision_config.image_size, config.image_grid_pinpoints
    config.vision_config.image_size = kept[0] // 2
    config.image_grid_pinpoints = [[side // 2 for side in pair] for pair in kept[1]]
    yield
    config.vision_config.image_size, config.image_grid_pinpoints = kept


def tiled(model: Any, batch: FamilyBatch) -> Tensor:
    pixels, sizes = batch.inputs["pixel_values"], batch.inputs["image_sizes"]
    vision = model.model.vision_tower

    def shrink(module: Any, args: Any, kwargs: Any) -> Any:
        return (smaller(args[0]), *args[1:]), {**kwargs, "interpolate_pos_encoding": True}

    handle = vision.register_forward_pre_hook(shrink, with_kwargs=True)
    try:
        with half_the_resolution(model):
            halves = sizes // 2
            return torch.cat(list(model.model.get_image_features(pixels, halves, return_dict=True).pooler_output))
    finally:
        handle.remove()


EXPECTED = {
    "gemma3": gemma3,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava": llava,
    "llava_next": tiled,
    "llava_onevision": tiled,
    "paligemma": paligemma,
    "smolvlm": idefics3,
}


def test_every_family_of_one_resolution_is_here():
    assert set(EXPECTED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_gets_the_tokens_of_the_smaller_picture(name):
    model, batch, looks = model_of(name), tiny_family_batch(name, model_of(name)), Looks()
    with torch.no_grad():
        expected = EXPECTED[name](model, batch)
        model(**batch.inputs)  # some models install hooks of their own in their first call
        hooks = num_hooks(model)
        with attach(model, QUARTER, looks) as trace:
            logits = model(**batch.inputs).logits[:, -1]
            first = generate(model, batch.inputs, tokens=1)[1][:, 0]
    assert torch.allclose(torch.cat(looks.seen[: len(looks.seen) // 2]), expected, atol=1e-5)
    assert torch.allclose(logits, first, atol=1e-4)
    assert [len(kept) for kept in trace.kept] == [len(rows) for rows in looks.seen[:2]] + [0]
    assert num_hooks(model) == hooks


@pytest.mark.parametrize("name", NAMES)
def test_every_token_of_the_picture_is_behind_one_of_the_smaller(name):
    model, batch = model_of(name), tiny_family_batch(name, model_of(name))
    with torch.no_grad(), attach(model, QUARTER) as trace:
        model(**batch.inputs)
    for total, sources in zip(trace.num_visual[:2], trace.stages[0].sources, strict=False):
        carried = sorted(token for group in sources for token in group)
        lost = set(range(total)) - set(carried)
        assert len(set(carried)) == len(carried)
        assert not lost or (name in ("llava_next", "llava_onevision") and len(lost) < total / 8), "ends of rows alone"


def test_patches_are_spread_in_squares():
    grid, small, side = (4, 6), (2, 3), 2
    found = _spread(grid, small, side, class_token=True).tolist()
    assert found[0] == 0 and len(found) == 1 + 4 * 6 * 4
    for row in range(8):
        for column in range(12):
            token = (row // side) // 2, (column // side) // 2  # every small token covers two by two
            expected = (token[0] * side + row % side) * 6 + token[1] * side + column % side
            assert found[1 + row * 12 + column] == 1 + expected
