"""Ways of calling a model that cannot be pruned rightly. Each is refused in one line that names the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from lit_simignore.surgery.cache import CacheState
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
            "a prompt that comes in several pieces (prefill_chunk_size) cannot be pruned by its text: leave "
            "prefill_chunk_size unset"
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


def refuse_window(config: Any, length: int) -> None:
    """Sliding windows count slots: dropping tokens would move what later tokens see."""
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < length:
        raise UserError(
            f"this decoder attends within a window of {window} positions and the prompt has {length}: dropping "
            "tokens would move the window; shorten the prompt"
        )
