"""What attach refuses, what it warns about, and what its trace says."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lit_simignore.metrics.flops import DecoderShape, decoder_budget
from lit_simignore.pruning.base import Features, Need, Pruner
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.surgery.families import FAMILIES, family_of
from lit_simignore.types import Selection, UserError
from tests.masked_reference import generate, num_hooks
from tests.tiny_models import tiny_llava


def refusal(model, *parts, **options) -> str:
    with pytest.raises(UserError) as caught, attach(model, *parts, **options):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_family_is_named_with_the_known_ones():
    model = tiny_llava()
    model.config.model_type = "llavva"
    assert "did you mean 'llava'" in refusal(model, Simignore(num_keep=4))


def test_every_family_is_found_by_its_model_types():
    for family in FAMILIES().values():
        for model_type in family.model_types:
            config = LlamaConfig()
            config.model_type = model_type
            assert type(family_of(config)) is family


def test_something_that_is_no_model_is_refused():
    assert "Hugging Face model" in refusal(nn.Linear(2, 2), Simignore(num_keep=4))


def test_something_that_is_no_pruner_is_refused(model):
    assert "takes pruners" in refusal(model, "simignore")
    assert "takes pruners" in refusal(model, Simignore)


def test_a_need_that_the_family_cannot_serve_is_named(model):
    @dataclass(kw_only=True)
    class Tower(Pruner):
        needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})

        def choose(self, features: Features) -> Selection:
            raise NotImplementedError

        def with_budget(self, definition, num_tokens, shape=None):
            raise NotImplementedError

    assert "a text tower" in refusal(model, Tower())


def test_parts_that_disagree_about_drop_or_mask_are_refused(model):
    message = refusal(model, Simignore(num_keep=4, apply="mask"), RandomTokens(num_keep=2))
    assert "agree on apply" in message


def test_parts_that_disagree_about_positions_are_refused(model):
    message = refusal(model, Simignore(num_keep=4, positions="renumber"), RandomTokens(num_keep=2))
    assert "agree on positions" in message


def test_nested_attachments_are_refused_and_the_outer_one_survives(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        assert "attached already" in refusal(model, Simignore(num_keep=2))
        model(**batch.inputs)
    assert [len(kept) for kept in trace.kept] == [4, 4, 4]
    with attach(model):
        pass


@pytest.mark.parametrize("scope", ["options", "question"])
def test_a_scope_that_only_spans_can_tell_is_refused_without_them(model, scope):
    assert f"where the {scope} are" in refusal(model, Simignore(num_keep=4, text=scope))


def test_an_unsupported_cache_is_refused(model, batch):
    from transformers.cache_utils import DynamicCache

    class Other(DynamicCache):
        pass

    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4), spans=batch.spans),
        pytest.raises(UserError, match="knows DynamicCache and StaticCache; got Other"),
    ):
        model(**batch.inputs, past_key_values=Other(config=model.config))


def test_video_is_refused_in_one_line(model, batch):
    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4), spans=batch.spans),
        pytest.raises(UserError, match="video"),
    ):
        model(**batch.inputs, pixel_values_videos=torch.zeros(1))


def test_embeddings_without_ids_or_columns_are_refused(model, batch):
    embeds = model.get_input_embeddings()(batch.inputs["input_ids"])
    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4), spans=batch.spans),
        pytest.raises(UserError, match="visual_columns"),
    ):
        model(inputs_embeds=embeds, attention_mask=batch.inputs["attention_mask"])


def test_a_sliding_window_shorter_than_the_prompt_is_refused(batch):
    model = tiny_llava()
    model.get_decoder().config.sliding_window = 8
    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4), spans=batch.spans),
        pytest.raises(UserError, match="window of 8"),
    ):
        model(**batch.inputs)


def test_an_unknown_argument_with_one_entry_per_token_is_refused(model, batch):
    extra = torch.zeros(3, batch.length)
    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4), spans=batch.spans),
        pytest.raises(UserError, match="does not know how to shorten|not know how to shorten"),
    ):
        model(**batch.inputs, token_weights=extra)


def test_without_spans_one_warning_per_block_and_all_ordinary_tokens_count(model, batch):
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with attach(model, Simignore(num_keep=4)) as trace:
            model(**batch.inputs)
            model(**batch.inputs)
    assert sum("no spans" in str(item.message) for item in caught) == 1
    features = model.get_image_features(batch.inputs["pixel_values"], return_dict=True).pooler_output
    for row in range(3):
        ids = batch.inputs["input_ids"][row]
        ordinary = ids[(ids > 2) & (ids != 4)]  # no <pad>, <s>, </s>, <image>
        text = model.get_input_embeddings()(ordinary)
        assert torch.equal(trace.kept[row], Simignore(num_keep=4).select(features[row], text))


def test_a_rule_that_reads_no_text_does_not_warn(model, batch):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with attach(model, RandomTokens(num_keep=4)):
            model(**batch.inputs)


@pytest.mark.parametrize("scope", ["options", "question", "prompt"])
def test_the_text_scope_selects_by_exactly_the_labelled_tokens(model, batch, scope):
    with torch.no_grad(), attach(model, Simignore(num_keep=4, text=scope), spans=batch.spans) as trace:
        model(**batch.inputs)
    features = model.get_image_features(batch.inputs["pixel_values"], return_dict=True).pooler_output
    tokens = batch.spans.tokens(scope)
    for row in range(3):
        text = model.get_input_embeddings()(batch.inputs["input_ids"][row][tokens[row]])
        expected = Simignore(num_keep=4, text=scope)
        selection = expected.choose(Features(visual=features[row], text=text))
        assert torch.equal(trace.kept[row], selection.kept)
        assert torch.allclose(trace.stages[0].scores[row], selection.scores, atol=1e-6)


def test_a_sample_without_the_asked_text_is_named(model):
    from lit_simignore.surgery.prepare import prepare
    from lit_simignore.types import Role, Sample, Segment
    from tests.tiny_models import tiny_image, tiny_processor, tiny_sample

    bare = Sample("bare", (Segment("red cat", Role.QUESTION),), (tiny_image(),))
    words = Sample("words", (Segment("red cat", Role.QUESTION),))
    inputs, spans = prepare(tiny_processor(), [tiny_sample("a", "cat ?"), bare])
    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4, text="options"), spans=spans),
        pytest.raises(UserError, match="sample 'bare' has no options"),
    ):
        model(**inputs)
    inputs, spans = prepare(tiny_processor(), [tiny_sample("a", "cat ?"), words])
    with torch.no_grad(), attach(model, Simignore(num_keep=4, text="options"), spans=spans) as trace:
        model(**inputs)  # without an image there is nothing to choose
    assert [len(kept) for kept in trace.kept] == [4, 0]


def test_the_model_without_its_head_can_be_attached_too(model, batch):
    inner = model.model
    with torch.no_grad(), attach(inner, Simignore(num_keep=4), spans=batch.spans) as trace:
        hidden = inner(**batch.inputs).last_hidden_state
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as outer:
        logits = model(**batch.inputs).logits
    assert torch.equal(model.lm_head(hidden), logits)
    assert all(torch.equal(a, b) for a, b in zip(trace.kept, outer.kept, strict=True))


def test_random_sets_differ_between_samples_and_not_between_batches(model, batch):
    with torch.no_grad(), attach(model, RandomTokens(num_keep=5), spans=batch.spans) as trace:
        model(**batch.inputs)
        first = trace.kept
        model(**batch.inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, trace.kept, strict=True))
    assert not torch.equal(first[0], first[1])
    alone = RandomTokens(num_keep=5).select(torch.zeros(16, 4), torch.zeros(0, 4), key="s1")
    assert torch.equal(first[1], alone)


def test_budgets_are_those_of_the_analytic_formula(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        model(**batch.inputs)
    shape = DecoderShape.from_config(model.config)
    for row, budget in enumerate(trace.budgets):
        text = int(batch.inputs["attention_mask"][row].sum()) - 16
        assert budget == decoder_budget(shape, [4] * 4, total=16, text_tokens=text)
    assert trace.budget.input == trace.budget.final == trace.budget.layer_mean == 4
    assert trace.budget.flops == pytest.approx(4)


def test_an_empty_trace_says_what_to_do(model):
    with attach(model) as trace, pytest.raises(UserError, match="run model"):
        _ = trace.kept
    assert len(trace.calls) == 0


def test_the_trace_remembers_calls_until_reset(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        generate(model, batch.inputs)
        model(**batch.inputs)
        assert len(trace.calls) == 2
        trace.reset()
        assert len(trace.calls) == 0


def test_decoding_never_waits_for_the_device(model, batch, monkeypatch):
    """Every way from a tensor to a Python number, counted during decoding steps only."""
    waits = {"attached": 0, "plain": 0}
    running = {"name": "plain", "decoding": False}

    def counted(original):
        def call(self, *args, **kwargs):
            if running["decoding"]:
                waits[running["name"]] += 1
            return original(self, *args, **kwargs)

        return call

    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans):
        attached = model(**batch.inputs)
    with torch.no_grad():
        plain = model(**batch.inputs)
    for name in ("item", "tolist", "__bool__", "__int__", "__index__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    mask = torch.cat([batch.inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], 1)

    def step(output):
        running["decoding"] = True
        model(input_ids=torch.full((3, 1), 9), attention_mask=mask, past_key_values=output.past_key_values)
        running["decoding"] = False

    with torch.no_grad():
        step(plain)
        running["name"] = "attached"
        with attach(model, Simignore(num_keep=4), spans=batch.spans):
            step(attached)
    assert waits["attached"] <= waits["plain"]


def test_hooks_are_gone_when_installing_them_fails_half_way(model, batch, monkeypatch):
    decoder = model.get_decoder()
    hooks = num_hooks(model)
    monkeypatch.setattr(decoder, "register_forward_hook", _broken)
    with pytest.raises(RuntimeError, match="no more"), attach(model, Simignore(num_keep=4)):
        pass
    assert num_hooks(model) == hooks


def _broken(*args, **kwargs):
    raise RuntimeError("no more")


def causal_lm(model_type="llama"):
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def test_a_bare_language_model_takes_its_visual_columns_by_name():
    model, embeds = causal_lm(), torch.randn(2, 12, 32)
    visual = torch.zeros(2, 12, dtype=torch.bool)
    visual[:, 2:8] = True
    with torch.no_grad(), attach(model, RandomTokens(num_keep=2)) as trace, visual_columns(visual, keys=("a", "b")):
        logits = model(inputs_embeds=embeds).logits
    mask = torch.ones(2, 12, dtype=torch.long)
    for row in range(2):
        mask[row, 2:8] = 0
        mask[row, 2 + trace.kept[row]] = 1
    with torch.no_grad():
        expected = model(inputs_embeds=embeds, attention_mask=mask, position_ids=torch.arange(12)[None]).logits
    assert torch.allclose(logits[mask.bool()], expected[mask.bool()], atol=1e-5)
    assert not torch.equal(trace.kept[0], trace.kept[1])


def test_a_bare_language_model_with_ids_alone_is_untouched():
    model, ids = causal_lm(), torch.randint(3, 50, (2, 9))
    with torch.no_grad():
        plain = model(ids).logits
        with attach(model, RandomTokens(num_keep=2)):
            assert torch.equal(model(ids).logits, plain)


@pytest.mark.parametrize("bad", [torch.zeros(4), torch.zeros(2, 4), torch.zeros(2, 4, 4, dtype=torch.bool)])
def test_visual_columns_want_a_boolean_matrix(bad):
    with pytest.raises(UserError, match="bool masks"), visual_columns(bad):
        pass
