"""A family's vision tower, against what the model makes of it and what it shows eagerly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lit_simignore.pruning.base import Features, Need, Pruner
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.families import FAMILIES, family_of
from lit_simignore.surgery.towers import READS, READS_CLASS_TOKEN, StreamTower
from lit_simignore.types import Selection
from tests.family_reference import features_of
from tests.masked_reference import generate
from tests.tiny_families import BUILDERS, FamilyBatch, tiny_family, tiny_family_batch

TOWERS = sorted(name for name in BUILDERS if FAMILIES()[name].tower_offers)
CLASS_TOKENS = sorted(name for name in TOWERS if FAMILIES()[name].tower_offers >= READS_CLASS_TOKEN)
SHOWN = {"llava": 48, "paligemma": 48, "internvl": 12, "idefics3": 12, "smolvlm": 12, "gemma3": 12}
"""Visual tokens of the batch that show a part of a picture, where all of them do."""


@dataclass(kw_only=True)
class Watcher(Pruner):
    """Looks at what it is told to, and keeps every third token."""

    needs: ClassVar[frozenset[Need]] = READS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[Features] = []

    def choose(self, features: Features) -> Selection:
        self.seen.append(features)
        return Selection(kept=torch.arange(0, features.visual.shape[0], 3))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@dataclass(kw_only=True)
class ClassWatcher(Watcher):
    """The same where there is a class token."""

    needs: ClassVar[frozenset[Need]] = READS_CLASS_TOKEN


@cache
def model_of(name: str, attention: str = "sdpa") -> Any:
    return tiny_family(name, attention)


@cache
def batch_of(name: str) -> FamilyBatch:
    return tiny_family_batch(name, model_of(name))


def watched(name: str, attention: str = "sdpa", *before: Pruner, way: str = "forward") -> list[Features]:
    model, batch, watcher = model_of(name, attention), batch_of(name), Watcher()
    with torch.no_grad(), attach(model, *before, watcher):
        if way == "forward":
            model(**batch.inputs)
        else:
            generate(model, batch.inputs, tokens=2, num_beams=2 if way == "beams" else 1)
    return watcher.seen


@pytest.mark.parametrize("name", TOWERS)
def test_projected_rows_are_the_visual_tokens(name):
    seen = watched(name)
    assert [len(features.visual) for features in seen] == [count for count in batch_of(name).num_visual if count]
    for features in seen:
        shows = features.tiles >= 0
        assert bool(shows.any()) and (not SHOWN.get(name) or bool(shows.all()))
        with torch.no_grad():
            projected = features.project(features.vision_hidden[shows])
        assert torch.allclose(projected, features.visual[shows], atol=1e-5)
        assert bool((features.vision_hidden[~shows] == 0).all() and (features.vision_attention[:, ~shows] == 0).all())


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_tokens_that_show_nothing_are_the_newlines(name):
    model, batch = model_of(name), batch_of(name)
    newline, rows = model.model.image_newline, features_of(model, batch)
    tiles = torch.cat([features.tiles for features in watched(name)])
    assert torch.equal((rows == newline).all(-1), tiles < 0) and bool((tiles < 0).any())


@pytest.mark.parametrize("way", ["generate", "beams"])
@pytest.mark.parametrize("name", TOWERS)
def test_generation_shows_the_same(name, way):
    expected, found = watched(name), watched(name, way=way)
    found = found[::2] if way == "beams" else found
    for one, other in zip(expected, found, strict=True):
        for field in ("visual", "tiles", "vision_hidden", "vision_attention", "vision_keys"):
            assert torch.allclose(getattr(one, field), getattr(other, field), atol=1e-5), field


@pytest.mark.parametrize("name", TOWERS)
def test_what_another_pruner_left_is_shown_alone(name):
    expected, kept = watched(name), []
    model, batch, watcher = model_of(name), batch_of(name), Watcher()
    with torch.no_grad(), attach(model, RandomTokens(keep_ratio=0.5), watcher) as trace:
        model(**batch.inputs)
        kept = [tokens for tokens in trace.stages[0].kept if len(tokens)]
    for all_of_it, some, tokens in zip(expected, watcher.seen, kept, strict=True):
        assert torch.equal(some.tiles, all_of_it.tiles[tokens])
        assert torch.allclose(some.vision_hidden, all_of_it.vision_hidden[tokens], atol=1e-5)
        assert torch.allclose(some.vision_keys, all_of_it.vision_keys[:, tokens], atol=1e-5)


def eager_attention(name: str) -> list[Tensor]:
    """``(H, L, L)`` per picture, of the layer that made the rows, by the eager tower alone."""
    model, batch, found = model_of(name, "eager"), batch_of(name), []
    tower = family_of(model.config).vision(model)
    handle = tower.attention.register_forward_hook(lambda *call: found.append(call[-1][1]))
    with torch.no_grad():
        features_of(model, batch)
    handle.remove()
    return [picture for maps in found for picture in maps]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [name for name in TOWERS if not name.startswith("qwen")])
def test_attention_is_that_of_the_class_token_or_the_mean_over_patches(name, attention):
    tower, maps = family_of(model_of(name).config).vision(model_of(name)), eager_attention(name)
    side, pictures = 4, iter(maps)
    for features in watched(name, attention):
        for number in range(int(features.tiles.max()) + 1):
            whole = next(pictures)
            got = whole[:, 0, 1:] if tower.class_token else whole.mean(dim=1)
            square = got.view(-1, tower.grid[0], side // tower.grid[0], tower.grid[1], side // tower.grid[1])
            expected = square.sum(dim=(2, 4)).flatten(1)
            mine = features.vision_attention[:, features.tiles == number]
            if mine.shape[1] == expected.shape[1]:
                assert torch.allclose(mine, expected, atol=1e-5)
            else:  # the model cut padding away
                assert bool((mine[:, :, None] - expected[:, None]).abs().amin(2).amax() < 1e-5)
    assert next(pictures, None) is None


@pytest.mark.parametrize("name", [name for name in TOWERS if name.startswith("qwen")])
def test_attention_in_a_stream_of_pictures_stays_within_each(name):
    model, batch = model_of(name), batch_of(name)
    tower = family_of(model.config).vision(model)
    assert isinstance(tower, StreamTower)
    for features in watched(name):
        totals = [features.vision_attention[:, features.tiles == tile].sum(1) for tile in features.tiles.unique()]
        assert all(torch.allclose(total, torch.ones_like(total), atol=1e-5) for total in totals)
    # one picture at a time, in a call of its own, is the same
    alone = [watched_alone(model, batch, index) for index in range(3)]
    together = [(f.vision_attention, f.vision_keys, f.tiles) for f in watched(name)]
    split = [part[..., tiles == t] for part, _, tiles in together for t in tiles.unique()]
    for one, part in zip(alone, split, strict=True):
        assert torch.allclose(one, part, atol=1e-5)


def watched_alone(model: Any, batch: FamilyBatch, index: int) -> Tensor:
    sizes = batch.inputs["image_grid_thw"]
    pixels = batch.inputs["pixel_values"].split(sizes.prod(-1).tolist())[index]
    count = int(sizes[index].prod()) // 4
    ids = torch.tensor([[1, 6, *[4] * count, 7, 30, 31, 32]])
    watcher = Watcher()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 4).int()}
    with torch.no_grad(), attach(model, watcher):
        model(**inputs, pixel_values=pixels, image_grid_thw=sizes[index : index + 1])
    return watcher.seen[0].vision_attention


@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_class_tokens_and_last_rows_belong_to_the_tiles(name):
    model, batch, watcher = model_of(name), batch_of(name), ClassWatcher()
    last = family_of(model.config).vision(model).last_attention
    inputs: list[Tensor] = []
    with torch.no_grad(), attach(model, watcher):
        handle = last.k_proj.register_forward_hook(lambda *call: inputs.append(call[1][0]))
        model(**batch.inputs)
        handle.remove()
        keys, queries = last.k_proj(inputs[0]), last.q_proj(inputs[0])
    first = 0
    for features in watcher.seen:
        count = int(features.tiles.max()) + 1
        assert torch.allclose(features.vision_last_cls_key, keys[first : first + count, 0], atol=1e-5)
        assert torch.allclose(features.vision_last_cls_query, queries[first : first + count, 0], atol=1e-5)
        assert features.vision_cls_hidden.shape[0] == count
        for token in range(0, len(features.tiles), 5):
            tile = int(features.tiles[token])
            if tile >= 0:
                near = (keys[first + tile, 1:] - features.vision_last_keys[token]).abs().amax(-1).min()
                assert near < 1e-5
        first += count
    assert first == keys.shape[0]


def test_a_listened_method_is_given_back():
    model = model_of("llava_next")
    with attach(model, Watcher()):
        assert "pack_image_features" in vars(model.model)
    assert "pack_image_features" not in vars(model.model)
