"""A smaller picture, against a prompt that was written for it and a tower that is asked directly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning.downsampled_image import DownsampledImage
from lit_simignore.pruning.fastervlm import FasterVLM
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pooling import Pooling
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.types import UserError
from tests.masked_reference import num_hooks
from tests.tiny_models import IMAGE_SIDE, PATCH, Batch, tiny_batch, tiny_llava

SIDE = IMAGE_SIDE // PATCH
HALF = DownsampledImage(keep_ratio=0.25)
CLOSED_UP = DownsampledImage(keep_ratio=0.25, positions="renumber")


def small_rows(model: Any, batch: Batch) -> Tensor:
    """``(images, 4, D)`` visual tokens of the pictures at half the side, by the tower itself."""
    pixels = batch.inputs["pixel_values"]
    smaller = F.interpolate(pixels, size=(IMAGE_SIDE // 2, IMAGE_SIDE // 2), mode="bicubic", antialias=True)
    tower = model.model.vision_tower
    shown = tower(smaller, interpolate_pos_encoding=True, output_hidden_states=True)
    layer = model.config.vision_feature_layer
    return model.model.multi_modal_projector(shown.hidden_states[layer][:, 1:])


def written_for_it(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Embeddings of the prompts with four places per image instead of sixteen, one row per sample, left-padded."""
    ids, mask, rows = batch.inputs["input_ids"], batch.inputs["attention_mask"], small_rows(model, batch)
    embed, placeholder = model.get_input_embeddings(), model.config.image_token_id
    prompts, first = [], 0
    for row, alive in zip(ids, mask.bool(), strict=True):
        pieces, tokens = [], row[alive].tolist()
        while tokens:
            if tokens[0] == placeholder:
                pieces.append(rows[first])
                first, tokens = first + 1, tokens[SIDE * SIDE :]
            else:
                pieces.append(embed(torch.tensor([tokens.pop(0)])))
        prompts.append(torch.cat(pieces))
    longest = max(map(len, prompts))
    padded = [F.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts]
    alive = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"inputs_embeds": torch.stack(padded), "attention_mask": torch.tensor(alive)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("feature_layer", [-1, -2])
def test_the_decoder_sees_what_a_prompt_for_the_smaller_picture_would_show_it(attention, feature_layer) -> None:
    model, batch = tiny_llava(attention), tiny_batch((2, 1, 0))
    model.config.vision_feature_layer = model.model.config.vision_feature_layer = feature_layer
    with torch.no_grad():
        expected = model.generate(**written_for_it(model, batch), max_new_tokens=6, do_sample=False)
        logits = model(**written_for_it(model, batch)).logits[:, -1]
        with attach(model, CLOSED_UP, spans=batch.spans) as trace:
            found = model.generate(**batch.inputs, max_new_tokens=6, do_sample=False)
            assert torch.allclose(model(**batch.inputs).logits[:, -1], logits, atol=1e-4)
    assert torch.equal(found[:, batch.length :], expected)
    assert [len(kept) for kept in trace.kept] == [8, 4, 0]
    assert trace.budgets[0].total == 32
    assert trace.budgets[0].layer_mean == 8


def test_without_renumbering_a_token_stands_in_the_middle_of_what_it_covers() -> None:
    model, batch = tiny_llava(), tiny_batch((1, 1))
    reference = written_for_it(model, batch)
    positions = torch.arange(batch.length).repeat(2, 1)
    visual = batch.inputs["input_ids"] == model.config.image_token_id
    dropped = visual & ~torch.isin(visual.cumsum(1) - 1, torch.tensor([0, 2, 8, 10]))
    width = reference["inputs_embeds"].shape[1]
    kept = torch.stack([row[~gone] for row, gone in zip(positions, dropped, strict=True)])
    first = (1 - batch.inputs["attention_mask"]).sum(1, keepdim=True)
    with torch.no_grad(), attach(model, HALF, spans=batch.spans) as trace:
        logits = model(**batch.inputs).logits[:, -1]
    assert trace.kept[0].tolist() == [0, 2, 8, 10]
    with torch.no_grad():
        expected = model(**reference, position_ids=(kept[:, -width:] - first).clamp(min=0)).logits[:, -1]
    assert torch.allclose(logits, expected, atol=1e-4)


def test_nothing_is_left_behind_and_keeping_everything_touches_nothing() -> None:
    model, batch = tiny_llava(), tiny_batch((1, 1))
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        hooks = num_hooks(model)
        with attach(model, DownsampledImage(keep_ratio=1.0), spans=batch.spans):
            assert torch.equal(model(**batch.inputs).logits, plain)
        with attach(model, HALF, spans=batch.spans):
            assert not torch.equal(model(**batch.inputs).logits, plain)
        assert torch.equal(model(**batch.inputs).logits, plain)
    assert num_hooks(model) == hooks


def test_beams_and_other_pruners_behind_it() -> None:
    model, batch = tiny_llava(), tiny_batch((1, 2))
    rules = DownsampledImage(keep_ratio=0.25), Simignore(num_keep=3), FastV(layer_idx=2, num_keep=1)
    with torch.no_grad(), attach(model, *rules, spans=batch.spans) as trace:
        model.generate(**batch.inputs, max_new_tokens=3, num_beams=2, do_sample=False)
    assert [[len(kept) for kept in stage.kept] for stage in trace.stages] == [[4, 8], [3, 3], [1, 1]]


def test_gradients_flow_through_the_smaller_picture() -> None:
    model, batch = tiny_llava(), tiny_batch((1, 1))
    labels = torch.full_like(batch.inputs["input_ids"], -100)
    labels[:, -2:] = batch.inputs["input_ids"][:, -2:]
    with attach(model, CLOSED_UP, spans=batch.spans):
        model(**batch.inputs, labels=labels).loss.backward()
    found = model.model.vision_tower.embeddings.patch_embedding.weight.grad.clone()
    model.zero_grad()
    reference = written_for_it(model, batch)
    logits = model(**reference).logits
    F.cross_entropy(logits[:, -3:-1].flatten(0, 1), labels[:, -2:].flatten()).backward()
    assert torch.allclose(found, model.model.vision_tower.embeddings.patch_embedding.weight.grad, atol=1e-5)


@pytest.mark.parametrize("other", [FasterVLM(num_keep=3), DownsampledImage(keep_ratio=0.5)], ids=repr)
def test_two_readers_of_the_tower_are_refused(other) -> None:
    with pytest.raises(UserError, match="attach one of them"), attach(tiny_llava(), HALF, other):
        pass


def test_it_comes_first_and_sees_the_images_of_its_own_call() -> None:
    model, batch = tiny_llava(), tiny_batch((1, 1))
    with (
        torch.no_grad(),
        pytest.raises(UserError, match="before other pruners"),
        attach(model, Pooling(num_keep=9), HALF, spans=batch.spans),
    ):
        model(**batch.inputs)
    with torch.no_grad():
        ids = batch.inputs["input_ids"]
        embeds, visual = model.get_input_embeddings()(ids), ids == model.config.image_token_id
        with (
            attach(model, HALF),
            pytest.raises(UserError, match="as pixel_values, or take a rule that asks nothing"),
            visual_columns(visual),
        ):
            model(inputs_embeds=embeds, attention_mask=batch.inputs["attention_mask"])
