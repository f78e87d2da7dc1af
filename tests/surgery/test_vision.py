"""What rules read inside the vision tower, against what the tower shows by itself."""

from __future__ import annotations

import pytest
import torch
from transformers import SiglipVisionConfig

from lit_simignore.pruning.fastervlm import FasterVLM
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.prumerge import PruMerge
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.visionzip import VisionZip
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.towers import by_module
from lit_simignore.types import UserError
from tests.contracts.test_family_towers import ClassWatcher as Watcher
from tests.masked_reference import distance, generate, num_hooks, reference_inputs
from tests.tiny_models import tiny_batch, tiny_llava


@pytest.fixture(scope="module", params=[-1, -2])
def feature_layer(request):
    return request.param


@pytest.mark.parametrize("way", ["forward", "generate", "beams", "beams without spans"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features_are_what_the_tower_shows_by_itself(feature_layer, attention, way):
    model, batch, watcher = tiny_llava(attention), tiny_batch((2, 1, 0)), Watcher()
    model.config.vision_feature_layer = model.model.config.vision_feature_layer = feature_layer
    with torch.no_grad(), attach(model, watcher, spans=None if "without" in way else batch.spans):
        if way == "forward":
            model(**batch.inputs)
        else:
            beams = 2 if "beams" in way else 1
            model.generate(**batch.inputs, max_new_tokens=2, do_sample=False, num_beams=beams)
    seen = watcher.seen[::2] if "without" in way else watcher.seen
    assert len(seen) == 2, "a sample without an image is not asked about"
    shown = tower_by_itself(feature_layer, batch.inputs["pixel_values"])
    for features, images in zip(seen, ([0, 1], [2]), strict=True):
        for name, expected in shown(images).items():
            assert torch.allclose(getattr(features, name), expected, atol=1e-5), name
        with torch.no_grad():
            assert torch.allclose(features.project(features.vision_hidden), features.visual, atol=1e-5)


def tower_by_itself(feature_layer, pixels):
    """The eager tower, unattached; keys and queries recomputed from its hidden states."""
    tower = tiny_llava("eager").model.vision_tower
    with torch.no_grad():
        shown = tower(pixels, output_hidden_states=True, output_attentions=True)
    made_by = 2 + feature_layer
    layers = tower.encoder.layers

    def rows(layer, name):
        block = layers[layer]
        with torch.no_grad():
            return getattr(block.self_attn, name)(block.layer_norm1(shown.hidden_states[layer]))

    def of(images):
        keys = rows(made_by, "k_proj")[images]
        split = keys[:, 1:].unflatten(2, (2, 16)).permute(2, 0, 1, 3).flatten(1, 2)
        last_keys, last_queries = rows(1, "k_proj")[images], rows(1, "q_proj")[images]
        return {
            "vision_attention": torch.cat([shown.attentions[made_by][i][:, 0, 1:] for i in images], 1),
            "vision_keys": split,
            "vision_hidden": shown.hidden_states[feature_layer][images, 1:].flatten(0, 1),
            "vision_cls_hidden": shown.hidden_states[feature_layer][images, 0],
            "vision_last_keys": last_keys[:, 1:].flatten(0, 1),
            "vision_last_cls_key": last_keys[:, 0],
            "vision_last_cls_query": last_queries[:, 0],
        }

    return of


def test_after_another_pruner_only_its_survivors_are_shown():
    model, batch, watcher = tiny_llava(), tiny_batch((2, 1)), Watcher()
    with torch.no_grad(), attach(model, RandomTokens(num_keep=7), watcher, spans=batch.spans) as trace:
        model(**batch.inputs)
    shown = tower_by_itself(-1, batch.inputs["pixel_values"])
    for features, images, kept in zip(watcher.seen, ([0, 1], [2]), trace.stages[0].kept, strict=True):
        assert torch.allclose(features.vision_hidden, shown(images)["vision_hidden"][kept], atol=1e-5)
        expected = shown(images)["vision_attention"][:, kept]
        assert torch.allclose(features.vision_attention, expected, atol=1e-5)


@pytest.mark.parametrize("rule", [FasterVLM(num_keep=5), FasterVLM(num_keep=5, positions="renumber")])
def test_a_rule_of_the_tower_prunes_like_any_other(rule):
    model, batch = tiny_llava(), tiny_batch()
    with torch.no_grad(), attach(model, rule, spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    reference = reference_inputs(batch.inputs, trace.kept, renumber=rule.positions == "renumber")
    expected, expected_logits, _ = generate(model, reference)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 2e-4


@pytest.mark.parametrize("rule", [VisionZip(num_keep=12), PruMerge(num_keep=12)])
def test_merging_rules_of_the_tower_run_and_carry_sources(rule):
    model, batch = tiny_llava(), tiny_batch((1, 2))
    with torch.no_grad(), attach(model, rule, FastV(layer_idx=2, num_keep=3), spans=batch.spans) as trace:
        generate(model, batch.inputs)
    assert [len(kept) for kept in trace.stages[0].kept] == [12, 12]
    assert [len(kept) for kept in trace.kept] == [3, 3]
    for kept, sources in zip(trace.stages[0].kept, trace.stages[0].sources, strict=True):
        assert sources is not None and len(sources) == len(kept)


def test_gradients_reach_the_tower_through_merged_rows():
    model, batch = tiny_llava(), tiny_batch()
    with attach(model, PruMerge(num_keep=4), spans=batch.spans):
        model(**batch.inputs).logits[:, -1].sum().backward()
    for module in (model.model.multi_modal_projector, model.model.vision_tower.encoder.layers[0]):
        assert all(float(value.grad.abs().max()) > 0 for value in module.parameters() if value.grad is not None)
        assert any(value.grad is not None for value in module.parameters())


def test_the_tower_is_as_it_was_after_the_block():
    model, batch = tiny_llava(), tiny_batch()
    with torch.no_grad():
        before = model(**batch.inputs).logits
        hooks = num_hooks(model)
        configs = [layer.self_attn.config for layer in model.model.vision_tower.encoder.layers]
        with attach(model, Watcher(), spans=batch.spans):
            model(**batch.inputs)
        after = model(**batch.inputs).logits
    assert num_hooks(model) == hooks and torch.equal(before, after)
    for layer, config in zip(model.model.vision_tower.encoder.layers, configs, strict=True):
        assert layer.self_attn.config is config
        assert not [name for name in vars(layer.self_attn) if "simignore" in name]


def test_images_that_the_tower_did_not_see_are_refused():
    model, batch = tiny_llava(), tiny_batch()
    with torch.no_grad():
        encoded = model.get_image_features(batch.inputs["pixel_values"], return_dict=True)
        inputs = {**batch.inputs, "mm_encoder_outputs": {"image": encoded}}
        inputs.pop("pixel_values")
        with attach(model, FasterVLM(num_keep=5), spans=batch.spans), pytest.raises(UserError, match="last made 0"):
            model(**inputs)


def test_a_projector_with_quantised_weights_is_given_numbers():
    class Quantised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)

        def forward(self, rows):
            return rows * 2

    rows = torch.tensor([[-1.5, 0.25]], dtype=torch.bfloat16)
    assert torch.equal(by_module(Quantised())(rows), 2 * rows)


def test_images_that_were_encoded_before_others_are_refused():
    model, batch = tiny_llava(), tiny_batch((1, 1))
    pixels, inputs = batch.inputs["pixel_values"], dict(batch.inputs)
    inputs.pop("pixel_values")
    with torch.no_grad(), attach(model, FasterVLM(num_keep=5), spans=batch.spans) as trace:
        model(**batch.inputs)
        expected = trace.kept
        other = model.get_image_features(pixels.flip(0), return_dict=True)
        encoded = model.get_image_features(pixels, return_dict=True)
        model(**inputs, mm_encoder_outputs={"image": encoded})
        assert all(torch.equal(one, two) for one, two in zip(trace.kept, expected, strict=True))
        with pytest.raises(UserError, match="last encoded other images"):
            model(**inputs, mm_encoder_outputs={"image": other})


def test_what_the_tower_computed_is_forgotten_after_the_block():
    from lit_simignore.surgery.vision import _SEEN

    model, batch = tiny_llava(), tiny_batch()
    with torch.no_grad(), attach(model, FasterVLM(num_keep=5), spans=batch.spans):
        model(**batch.inputs)
        assert _SEEN.get() is not None
    assert _SEEN.get() is None


def test_a_tower_without_class_token_is_refused_by_need():
    model = tiny_llava()
    model.config.vision_config = SiglipVisionConfig()
    with (
        pytest.raises(UserError, match="FasterVLM needs attention of the vision tower on every"),
        attach(model, FasterVLM(num_keep=5)),
    ):
        pass


def test_generation_without_a_cache_keeps_what_the_tower_computed_once():
    model, batch = tiny_llava(), tiny_batch()
    with torch.no_grad(), attach(model, FasterVLM(num_keep=5), spans=batch.spans):
        cached = model.generate(**batch.inputs, max_new_tokens=4, do_sample=False)
        uncached = model.generate(**batch.inputs, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)
