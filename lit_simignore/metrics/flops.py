"""Analytic cost of a Llama-style decoder, per sample.

Convention: one multiply-add is 2 floating-point operations. Counted: the seven projections of every layer
(q, k, v, o; gate, up, down), both products of attention over the full square of positions (no halving for causality,
as in PyTorch's own counter and in the pruning papers), and the language-model head. Not counted: embeddings, norms,
rotary angles, softmax, activations, biases. The vision tower is not part of the decoder.

A pruned prefill is described by the number of positions (text and visual) that every layer computes: dropping tokens
before layer l shortens queries, keys and values from layer l on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_simignore.types import Budget, UserError


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What the cost of a decoder depends on.

    Args:
        hidden: width of the residual stream.
        intermediate: inner width of the MLP.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key/value heads (fewer than ``num_heads`` for grouped-query attention).
        head_dim: width of one head.
        vocab: rows of the language-model head.
        gated: three MLP matrices (gate, up, down) instead of two.
    """

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    gated: bool = True

    @classmethod
    def from_config(cls, text_config: object, gated: bool = True) -> DecoderShape:
        """Read the shape off a configuration object with Hugging Face's attribute names.

        Args:
            text_config: the decoder's configuration, or one that holds it as ``text_config``.
            gated: whether the MLP has a gate; configurations do not say. True for the Llama line.

        Raises:
            UserError: an attribute is missing or not a whole number.
        """
        config = getattr(text_config, "text_config", None) or text_config
        hidden, heads = _attribute(config, "hidden_size"), _attribute(config, "num_attention_heads")
        return cls(
            hidden=hidden,
            intermediate=_attribute(config, "intermediate_size"),
            num_layers=_attribute(config, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=_attribute(config, "num_key_value_heads", default=heads),
            head_dim=_attribute(config, "head_dim", default=hidden // heads),
            vocab=_attribute(config, "vocab_size"),
            gated=gated,
        )

    @property
    def linear_flops(self) -> int:
        """Operations that one layer spends on one position, whatever the context."""
        attention = 2 * self.hidden * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = 2 * self.hidden * self.intermediate * (3 if self.gated else 2)
        return attention + mlp

    @property
    def pair_flops(self) -> int:
        """Operations that one layer spends on one (query, key) pair: the score and the weighted sum."""
        return 4 * self.num_heads * self.head_dim

    @property
    def head_flops(self) -> int:
        """Operations of the language-model head for one position."""
        return 2 * self.hidden * self.vocab


def _attribute(config: object, name: str, default: int | None = None) -> int:
    value = getattr(config, name, None)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"expected a positive whole number as {name} of {type(config).__name__}; got {value!r}; "
            "build DecoderShape by hand for such a decoder"
        )
    return value


def prefill_flops(shape: DecoderShape, lengths_per_layer: Sequence[float], *, head_positions: int = 1) -> float:
    """Operations of one prefill.

    Args:
        shape: the decoder.
        lengths_per_layer: positions (text and visual) that each layer computes, one entry per layer, >= 0.
        head_positions: positions that get logits: 1 as in generation, all of them as in training, 0 for none.

    Raises:
        UserError: not one length per layer, or a negative one.
    """
    _check_lengths(shape, lengths_per_layer)
    layers = math.fsum(shape.linear_flops * n + shape.pair_flops * n * n for n in lengths_per_layer)
    return layers + shape.head_flops * head_positions


def decode_flops(shape: DecoderShape, cached_lengths: Sequence[float], num_steps: int) -> float:
    """Operations of ``num_steps`` single-token steps after a prefill.

    Args:
        shape: the decoder.
        cached_lengths: positions that each layer's cache holds before the first step, one entry per layer.
        num_steps: forward passes; the prefill already gives the first new token, so N new tokens take N - 1.
    """
    _check_lengths(shape, cached_lengths)
    if num_steps < 0:
        raise UserError(f"num_steps must be at least 0; got {num_steps}")
    keys = math.fsum(num_steps * n for n in cached_lengths) + shape.num_layers * num_steps * (num_steps + 1) / 2
    per_step = shape.num_layers * shape.linear_flops + shape.head_flops
    return num_steps * per_step + shape.pair_flops * keys


def flops_equivalent_tokens(shape: DecoderShape, lengths_per_layer: Sequence[float], text_tokens: float) -> float:
    """Visual tokens of an input-pruned model (the same length in all layers) with the same prefill cost.

    Args:
        shape: the decoder.
        lengths_per_layer: positions that each layer computes, text included.
        text_tokens: the part of every length that is not visual.

    Returns:
        A real number >= 0: the positive root of ``L (linear n + pair n^2) = cost``, less ``text_tokens``.
        The head costs the same on both sides and cancels. It is at least the layer mean, for cost is convex.
    """
    if text_tokens < 0 or min(lengths_per_layer, default=0) < text_tokens:
        raise UserError(
            f"expected lengths that include the {text_tokens} text tokens; got a layer of {min(lengths_per_layer)}"
            if lengths_per_layer
            else f"expected one length per layer and text_tokens >= 0; got none and {text_tokens}"
        )
    cost = prefill_flops(shape, lengths_per_layer, head_positions=0) / shape.num_layers
    linear, pair = shape.linear_flops, shape.pair_flops
    # The form without a difference of near-equal numbers, exact to rounding for short sequences too.
    positions = 2 * cost / (linear + math.sqrt(linear * linear + 4 * pair * cost)) if cost else 0.0
    return max(0.0, positions - text_tokens)


def layer_mean_tokens(visual_per_layer: Sequence[float]) -> float:
    """Mean over decoder layers of the visual tokens that the layer computes."""
    if not visual_per_layer:
        raise UserError("expected the visual tokens of every decoder layer; got none")
    return math.fsum(visual_per_layer) / len(visual_per_layer)


def decoder_budget(
    shape: DecoderShape, visual_per_layer: Sequence[float], *, total: float, text_tokens: float
) -> Budget:
    """One sample's budget under every definition in use.

    Args:
        shape: the decoder.
        visual_per_layer: visual tokens that each layer computes, one entry per layer.
        total: visual tokens without pruning.
        text_tokens: positions that are not visual, the same in every layer.
    """
    lengths = [visual + text_tokens for visual in visual_per_layer]
    _check_lengths(shape, lengths)
    return Budget(
        total=total,
        input=visual_per_layer[0],
        final=visual_per_layer[-1],
        layer_mean=layer_mean_tokens(visual_per_layer),
        flops=flops_equivalent_tokens(shape, lengths, text_tokens),
        prefill_tflops=prefill_flops(shape, lengths) / 1e12,
    )


def _check_lengths(shape: DecoderShape, lengths: Sequence[float]) -> None:
    if len(lengths) != shape.num_layers:
        raise UserError(f"expected {shape.num_layers} lengths, one per decoder layer; got {len(lengths)}")
    if any(n < 0 for n in lengths):
        raise UserError(f"expected lengths >= 0; got {min(lengths)}")
