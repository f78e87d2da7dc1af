"""Ways of calling a model that cannot be pruned rightly. Each is refused in one line that names the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from lit_simignore.surgery.cache import CacheState
from lit_simignore.surgery.calls import cache_in
from lit_simignore.types import UserError

VISION_INPUTS = ("pixel_values", "pixel_values_images", "image_patches")
VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw")


def refuse_video(inputs: Mapping[str, Any]) -> None:
    """Videos are not images."""
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None or any(inputs.get(name) is not None for name in VIDEO_INPUTS):
        raise UserError("video input cannot be pruned; pass images")


def refuse_late_images(ids: Tensor | None, placeholder: int | None, inputs: Mapping[str, Any]) -> None:
    """An image on a non-empty cache: what was pruned before it is settled, and it would go unpruned."""
    if ids is None or placeholder is None:
        return
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("image")
    features = encoded is not None or any(inputs.get(name) is not None for name in VISION_INPUTS)
    # ids alone prove nothing: prompt-lookup drafts may copy placeholders
    if features and bool((ids == placeholder).any()):
        raise UserError(
            "an image that arrives on a non-empty cache (a later turn, or prefill_chunk_size) cannot be pruned: "
            "start a new cache with the whole conversation"
        )


def refuse_pieces(cache: Cache, state: CacheState | None, inputs: Mapping[str, Any]) -> None:
    """``generate(prefill_chunk_size=...)``: the choice was made without the text of the later pieces.

    Spans catch this at the first piece. Without them a later piece is known by what only this way of generating does:
    it goes on right behind a prefill, asks for one row of logits, and has no encoder outputs, not even empty ones as a
    second turn has them.
    """
    if state is None or "mm_encoder_outputs" in inputs or inputs.get("logits_to_keep") != 1:
        return
    if int(cache.get_seq_length()) == state.length:
        raise UserError(
            "a prompt that comes in several pieces (prefill_chunk_size) cannot be pruned by its text or by attention: "
            "leave prefill_chunk_size unset"
        )


def refuse_foreign_stages(state: CacheState, layers: Iterable[int]) -> None:
    """A cache pruned inside the decoder needs hooks on every layer behind its first stage."""
    first, here = min(state.stages, default=None), min(layers, default=None)
    if first is None or (here is not None and here <= first):
        return
    if first == 0:
        raise UserError(
            "this cache hides tokens from its first layers only; continue it with FastV(hidden='return') attached, or "
            "start a new cache"
        )
    raise UserError(
        f"this cache was pruned before decoder layer {first}; continue it with a pruner attached at that layer or "
        "an earlier one, or start a new cache"
    )


def window_of(config: Any) -> int | None:
    """Positions that sliding-window layers of the decoder see; ``None`` where no layer slides."""
    return getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None


def refuse_window(window: int | None, length: int, cache: Cache | None) -> None:
    """Sliding windows count slots: dropping tokens would move what later tokens see."""
    if window is None:
        return
    if window < length:
        raise UserError(
            f"this decoder attends within a window of {window} positions and the prompt has {length}: dropping "
            "tokens would move the window; shorten the prompt"
        )
    # a static cache that fills up may do so in compiled steps, which nobody watches
    if cache is not None and cache.is_compileable and cache.get_max_length() >= window:
        raise UserError(
            f"this decoder attends within a window of {window} positions and the static cache is as long: dropping "
            "tokens would move the window; use the default cache, or a static one that is shorter than the window"
        )


def refuse_growth(window: int | None, cache: Cache, num_new: int) -> None:
    """A conversation that outgrows the window after its prompt was pruned."""
    if window is None or cache.is_compileable:
        return
    length = int(cache.get_seq_length()) + num_new
    if length > window:
        raise UserError(
            f"this decoder attends within a window of {window} positions and the conversation has grown to {length}: "
            "the tokens that were dropped would move the window; use a smaller max_new_tokens, or leave this prompt "
            "unpruned"
        )


def refuse_packed(decoder: Any, inputs: Mapping[str, Any]) -> None:
    """Without mask and cache, transformers takes positions that jump for several prompts packed into one row."""
    positions, use_cache = inputs.get("position_ids"), inputs.get("use_cache")
    if positions is None or inputs.get("attention_mask") is not None or cache_in(inputs) is not None:
        return
    cached = decoder.config.use_cache if use_cache is None else use_cache
    if cached and not (decoder.training and getattr(decoder, "gradient_checkpointing", False)):
        return
    if positions.ndim == 3 and positions.shape[0] == 4:  # the first plane counts tokens, the others rows and columns
        positions = positions[0]
    if positions.ndim == 2 and bool((positions.diff(dim=-1) != 1).any()):
        raise UserError(
            "position_ids that jump, without attention_mask, mean several prompts packed into one row, and pruning "
            "chooses row by row: give every prompt a row of its own (or, with one prompt per row, pass attention_mask)"
        )


def refuse_mixed_attention(decoder: Any) -> None:
    """Masks are made once for all layers: one layer with another implementation would misread them.

    An implementation without any kind of mask would see what is hidden.
    """
    common = decoder.config._attn_implementation
    if common not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise UserError(
            f"attention {common!r} is registered without a mask, so transformers gives it none and padding is seen; "
            f"add transformers.AttentionMaskInterface.register({common!r}, ...) with the mask that it reads"
        )
    for number, layer in enumerate(decoder.layers):
        config = getattr(getattr(layer, "self_attn", None), "config", None)
        own = getattr(config, "_attn_implementation", common)
        made, wanted = (ALL_MASK_ATTENTION_FUNCTIONS.get(name) for name in (common, own))
        if made is not None and wanted is not None and made is not wanted:
            raise UserError(
                f"decoder layer {number} computes attention by {own!r} and is given masks for {common!r}; call "
                f"model.set_attn_implementation({common!r}) for the whole model"
            )
