"""What rules inside the decoder are shown, against what the model itself computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from lit_simignore.pruning.base import CountPruner, Features, Need, Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import Selection, UserError
from tests.surgery.test_stage0 import flipped
from tests.surgery.test_training import answer_labels
from tests.tiny_models import tiny_llava


def test_fastv_reads_the_attention_that_the_eager_model_shows(batch):
    eager, sdpa = tiny_llava("eager"), tiny_llava("sdpa")
    with torch.no_grad():
        shown = eager(**batch.inputs, output_attentions=True).attentions
    for model in (eager, sdpa):
        for layer in (1, 2, 3):
            with torch.no_grad(), attach(model, FastV(layer_idx=layer, num_keep=6), spans=batch.spans) as trace:
                model(**batch.inputs)
            for row in range(3):
                visual = batch.inputs["input_ids"][row] == 4
                expected = shown[layer - 1][row, :, -1, visual].mean(0)
                assert torch.allclose(trace.stages[0].scores[row], expected, atol=1e-6)
                assert trace.kept[row].tolist() == sorted(expected.topk(6).indices.tolist())


def test_pyramiddrop_reads_the_attention_of_its_own_layer_before_the_drop(batch):
    eager, sdpa = tiny_llava("eager"), tiny_llava("sdpa")
    with torch.no_grad():
        shown = eager(**batch.inputs, output_attentions=True).attentions
    for model in (eager, sdpa):
        with torch.no_grad(), attach(model, PyramidDrop(layers=(2,), num_keep=(6,)), spans=batch.spans) as trace:
            model(**batch.inputs)
        for row in range(3):
            visual = batch.inputs["input_ids"][row] == 4
            expected = shown[2][row, :, -1, visual].mean(0)
            assert torch.allclose(trace.stages[0].scores[row], expected, atol=1e-6)


@dataclass(kw_only=True)
class Everything(Pruner):
    """Looks at all that a decoder offers."""

    layer_idx: int = 2
    needs: ClassVar[frozenset[Need]] = frozenset(
        {
            Need.TEXT,
            Need.QUERY_ATTENTION,
            Need.OWN_ATTENTION,
            Need.TEXT_ATTENTION,
            Need.LAYER_KEYS,
            Need.FINAL_NORM,
            Need.INPUT_EMBEDDINGS,
            Need.ROPE,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[Features] = []

    def choose(self, features: Features) -> Selection:
        self.seen.append(features)
        return Selection(kept=torch.arange(0, features.visual.shape[0], 2))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


def test_features_inside_the_decoder_are_what_the_model_itself_computes(batch):
    model, watcher = tiny_llava("eager"), Everything()
    with torch.no_grad():
        shown = model(**batch.inputs, output_attentions=True, output_hidden_states=True)
        with attach(model, watcher, spans=batch.spans):
            model(**batch.inputs)
    decoder = model.get_decoder()
    for row, features in enumerate(watcher.seen):
        visual = (batch.inputs["input_ids"][row] == 4).nonzero()[:, 0]
        text = batch.spans.tokens("prompt")[row].nonzero()[:, 0]
        state = shown.hidden_states[2][row]
        assert torch.allclose(features.visual, state[visual]) and torch.allclose(features.text, state[text])
        assert torch.allclose(features.query_attention, shown.attentions[1][row, :, -1, visual], atol=1e-6)
        assert torch.allclose(features.own_attention, shown.attentions[2][row, :, -1, visual], atol=1e-6)
        expected = shown.attentions[1][row][:, text][:, :, visual]
        assert torch.allclose(features.text_attention, expected, atol=1e-6)
        with torch.no_grad():
            assert torch.allclose(features.normed_visual, decoder.norm(state[visual]))
            assert torch.allclose(features.normed_text, decoder.norm(state[text]))
            cos, sin = decoder.rotary_emb(state[None], position_ids=torch.arange(batch.length)[None])
            layer = decoder.layers[1]
            keys = layer.self_attn.k_proj(layer.input_layernorm(shown.hidden_states[1][row]))
        assert torch.allclose(features.visual_rope, torch.stack([cos[0, visual], sin[0, visual]]))
        assert torch.allclose(features.text_rope, torch.stack([cos[0, text], sin[0, text]]))
        assert torch.allclose(features.input_visual, shown.hidden_states[0][row, visual])
        assert torch.allclose(features.input_text, shown.hidden_states[0][row, text])
        keys = keys.view(batch.length, 2, 16).transpose(0, 1)
        half = torch.cat([-keys[..., 8:], keys[..., :8]], -1)
        rotated = keys * cos[0] + half * sin[0]
        assert torch.allclose(features.layer_keys, rotated[:, visual], atol=1e-5)
        assert torch.allclose(features.text_keys, rotated[:, text], atol=1e-5)
        pads = int((batch.inputs["attention_mask"][row] == 0).sum())
        assert torch.equal(features.visual_columns, visual - pads) and torch.equal(features.text_columns, text - pads)
        assert features.grids == ((4, 4),) and features.num_input is None


def test_num_input_counts_what_entered_the_decoder(batch):
    model, watcher = tiny_llava(), Everything(layer_idx=3)
    parts = (Simignore(num_keep=10), FastV(layer_idx=1, num_keep=6), watcher)
    with torch.no_grad(), attach(model, *parts, spans=batch.spans):
        model(**batch.inputs)
    assert [features.num_input for features in watcher.seen] == [10, 10, 10]
    assert all(features.visual.shape[0] == 6 and features.grids == () for features in watcher.seen)
    assert all(features.input_visual.shape[0] == 10 for features in watcher.seen)


def test_in_training_the_query_is_the_last_token_before_the_answer(batch):
    model = tiny_llava("eager")
    labels = answer_labels(batch.inputs, last=4)
    with torch.no_grad():
        shown = model(**batch.inputs, output_attentions=True).attentions[1]
        with attach(model, FastV(layer_idx=2, num_keep=5), spans=batch.spans) as trace:
            model(**batch.inputs, labels=labels)
    for row in range(3):
        visual = batch.inputs["input_ids"][row] == 4
        assert torch.allclose(trace.stages[0].scores[row], shown[row, :, -5, visual].mean(0), atol=1e-6)


def test_under_right_padding_the_query_is_the_last_real_token(batch):
    model, inputs = tiny_llava("eager"), flipped(batch)
    with torch.no_grad():
        shown = model(**inputs, output_attentions=True).attentions[1]
        with attach(model, FastV(layer_idx=2, num_keep=5)) as trace:
            model(**inputs)
    for row in range(3):
        visual = inputs["input_ids"][row] == 4
        last = int(inputs["attention_mask"][row].sum()) - 1
        assert torch.allclose(trace.stages[0].scores[row], shown[row, :, last, visual].mean(0), atol=1e-6)


@dataclass(kw_only=True)
class BehindImage(Pruner):
    """Notes the text that stands behind the image."""

    layer_idx: int | None = None
    text: str = "after_image"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[Features] = []

    def choose(self, features: Features) -> Selection:
        self.seen.append(features)
        return Selection(kept=torch.arange(5))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@pytest.mark.parametrize("layer_idx", [None, 2])
@pytest.mark.parametrize("with_spans", [True, False])
def test_the_text_behind_the_image_needs_no_spans(sdpa, batch, layer_idx, with_spans):
    import warnings

    labels, watcher = answer_labels(batch.inputs, last=4), BehindImage(layer_idx=layer_idx)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with attach(sdpa, watcher, spans=batch.spans if with_spans else None):
            sdpa(**batch.inputs)
            sdpa(**batch.inputs, labels=labels)
    for row in range(3):
        image = (batch.inputs["input_ids"][row] == 4).nonzero()[:, 0]
        pads = int((batch.inputs["attention_mask"][row] == 0).sum())
        behind = torch.arange(int(image[-1]) + 1, batch.length) - pads
        assert torch.equal(watcher.seen[row].text_columns, behind)
        assert torch.equal(watcher.seen[3 + row].text_columns, behind[:-4]), "answers are no text"


def test_every_bundled_pruner_runs_on_llava_or_says_what_it_lacks(batch):
    """The tiny model has four layers; methods with fixed layers get some that exist."""
    import dataclasses

    from lit_simignore.pruning import PRUNERS

    model, ran = tiny_llava(), []
    for name, cls in PRUNERS().items():
        fields = {item.name for item in dataclasses.fields(cls)}
        settings = {"layers": (1, 2, 3)} if "layers" in fields else {}
        if "layer_idx" in fields:
            settings["layer_idx"] = 2
        if issubclass(cls, CountPruner):
            settings["num_keep"] = 5
        pruner = cls(**settings)
        try:
            with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
                model.generate(**batch.inputs, max_new_tokens=2, do_sample=False)
        except UserError as error:
            assert "text tower" in str(error), name
            continue
        assert {stage.name for stage in trace.stages} == {cls.__name__}
        ran.append(name)
    assert set(PRUNERS()) - set(ran) <= {"cdpruner"}
