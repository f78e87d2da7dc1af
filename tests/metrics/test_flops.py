"""Oracles: PyTorch's operation counter on a real tiny Llama, bisection, and published totals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_simignore.metrics.flops import (
    DecoderShape,
    decode_flops,
    decoder_budget,
    flops_equivalent_tokens,
    layer_mean_tokens,
    prefill_flops,
)
from lit_simignore.types import UserError

LLAMA_7B = DecoderShape(4096, 11008, 32, 32, 32, 128, 32000)
TINY = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
}


def _tiny_llama() -> Any:
    transformers = pytest.importorskip("transformers")
    # Eager, for the counter does not see inside the fused attention of the CPU.
    config = transformers.LlamaConfig(**TINY, attn_implementation="eager")
    return transformers.LlamaForCausalLM(config).eval()


def _counted(model: Any, **inputs: object) -> tuple[int, Any]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = model(**inputs)
    return counter.get_total_flops(), output


def test_prefill_and_decode_equal_what_pytorch_counts_on_a_llama() -> None:
    model = _tiny_llama()
    shape = DecoderShape.from_config(model.config)
    tokens = torch.arange(13)[None]
    counted, output = _counted(model, input_ids=tokens, use_cache=True)
    assert prefill_flops(shape, [13] * 3, head_positions=13) == counted
    counted, _ = _counted(model, input_ids=tokens, use_cache=False, logits_to_keep=1)
    assert prefill_flops(shape, [13] * 3) == counted

    cache, steps = output.past_key_values, 0
    for _ in range(4):
        counted, _ = _counted(model, input_ids=torch.tensor([[1]]), past_key_values=cache, use_cache=True)
        steps += counted
    assert decode_flops(shape, [13] * 3, num_steps=4) == steps


def test_a_pruned_prefill_equals_what_pytorch_counts_layer_by_layer() -> None:
    model = _tiny_llama()
    shape = DecoderShape.from_config(model.config)
    lengths = [13, 13, 5]
    counted = 0
    hidden = torch.randn(1, 13, 24)
    for layer, length in zip(model.model.layers, lengths, strict=True):
        hidden = hidden[:, :length]
        positions = model.model.rotary_emb(hidden, torch.arange(length)[None])
        flops, output = _counted(layer, hidden_states=hidden, position_embeddings=positions)
        hidden = output[0] if isinstance(output, tuple) else output
        counted += flops
    assert prefill_flops(shape, lengths, head_positions=0) == counted


def test_llava_7b_costs_what_the_pruning_papers_say() -> None:
    """576 visual tokens alone cost 3.82 T multiply-adds in the aggregating papers' table, i.e. twice that here."""
    one = LLAMA_7B.num_layers * 576 * LLAMA_7B.linear_flops + LLAMA_7B.num_layers * 576**2 * LLAMA_7B.pair_flops
    assert prefill_flops(LLAMA_7B, [576] * 32, head_positions=0) == one
    assert one / 2e12 == pytest.approx(3.82, abs=0.01)


@pytest.mark.parametrize("kept", [0, 1, 64, 144, 452])
@pytest.mark.parametrize("layer", [0, 2, 5, 31])
def test_equivalent_tokens_agree_with_bisection(kept: int, layer: int) -> None:
    text = 70
    lengths = [576 + text] * layer + [kept + text] * (32 - layer)
    target = prefill_flops(LLAMA_7B, lengths)
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if prefill_flops(LLAMA_7B, [middle + text] * 32) < target else (low, middle)
    equivalent = flops_equivalent_tokens(LLAMA_7B, lengths, text)
    assert equivalent == pytest.approx(low, abs=1e-6)
    assert equivalent >= layer_mean_tokens([n - text for n in lengths]) - 1e-9


def test_equivalent_tokens_of_an_unpruned_model_are_its_tokens() -> None:
    assert flops_equivalent_tokens(LLAMA_7B, [646] * 32, 70) == pytest.approx(576, abs=1e-9)
    assert flops_equivalent_tokens(LLAMA_7B, [0] * 32, 0) == 0


def test_budget_holds_every_definition() -> None:
    budget = decoder_budget(LLAMA_7B, [576] * 2 + [144] * 30, total=576, text_tokens=60)
    assert (budget.total, budget.input, budget.final) == (576, 576, 144)
    assert budget.layer_mean == pytest.approx((2 * 576 + 30 * 144) / 32)
    assert budget.layer_mean < budget.flops < 576
    assert budget.prefill_tflops == pytest.approx(prefill_flops(LLAMA_7B, [636] * 2 + [204] * 30) / 1e12)


def test_shape_is_read_from_any_object_with_the_usual_names() -> None:
    inner = SimpleNamespace(**{name: value for name, value in TINY.items() if name not in ("head_dim",)})
    inner.num_key_value_heads = None
    shape = DecoderShape.from_config(SimpleNamespace(text_config=inner), gated=False)
    assert shape == DecoderShape(24, 40, 3, 4, 4, 6, 50, gated=False)


def test_an_unknown_configuration_is_refused_by_attribute() -> None:
    with pytest.raises(UserError, match="intermediate_size"):
        DecoderShape.from_config(SimpleNamespace(**(TINY | {"intermediate_size": [1, 2]})))


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="32 lengths"):
        prefill_flops(LLAMA_7B, [5])
    with pytest.raises(UserError, match=">= 0"):
        prefill_flops(LLAMA_7B, [-1] * 32)
    with pytest.raises(UserError, match="text tokens"):
        flops_equivalent_tokens(LLAMA_7B, [5] * 32, 6)
    with pytest.raises(UserError, match="got 0"):
        decoder_budget(LLAMA_7B, [], total=576, text_tokens=60)
    with pytest.raises(UserError, match="got none"):
        layer_mean_tokens([])
