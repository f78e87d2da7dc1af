"""The two losses of the bundled model's training. torch only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

FOREGROUND_WEIGHT = 0.7
"""Objects cover about a sixth of the patches; unweighted, background would drown them."""
COSINE_SCALE = 12.0
HIDDEN = -1e9


def patch_word_loss(
    patches: Tensor,
    words: Tensor,
    color_words: Tensor,
    shape_words: Tensor,
    background: int,
    colors: Tensor,
    shapes: Tensor,
) -> Tensor:
    """Cross-entropy of the cosine softmax of every projected patch over the input embedding table.

    The target is half the word of its colour and half the word of its shape, or the word ``background``.

    Args:
        patches: ``(B, I, D)`` projected patches.
        words: ``(V, D)`` input embeddings.
        color_words, shape_words: token ids of the colour and shape names.
        background: token id.
        colors, shapes: ``(B, I)`` int64 labels, -1 on background.
    """
    logits = COSINE_SCALE * normalize(patches.float(), dim=-1) @ normalize(words.float(), dim=-1).T
    return _label_loss(
        log_softmax(logits, -1),
        color_words[colors.clamp(min=0)],
        shape_words[shapes.clamp(min=0)],
        background,
        colors >= 0,
    )


def patch_probe_loss(logits: Tensor, num_colors: int, colors: Tensor, shapes: Tensor) -> Tensor:
    """The same labels, learned by a linear head that no word embedding is tied to.

    Args:
        logits: ``(B, I, colours + shapes + 1)``; the last class is background.
        num_colors: how many colour classes come first.
        colors, shapes: ``(B, I)`` int64 labels, -1 on background.
    """
    background = logits.shape[-1] - 1
    return _label_loss(
        log_softmax(logits.float(), -1), colors.clamp(min=0), num_colors + shapes.clamp(min=0), background, colors >= 0
    )


def _label_loss(log_probs: Tensor, color: Tensor, shape: Tensor, background: int, foreground: Tensor) -> Tensor:
    named = -0.5 * (log_probs.gather(-1, color[..., None]) + log_probs.gather(-1, shape[..., None]))[..., 0]
    empty = -log_probs[..., background]
    on = (named * foreground).sum() / foreground.sum().clamp(min=1)
    off = (empty * ~foreground).sum() / (~foreground).sum().clamp(min=1)
    return FOREGROUND_WEIGHT * on + (1 - FOREGROUND_WEIGHT) * off


def answer_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy. ``logits`` ``(N, V)``, ``targets`` and ``weights`` ``(N,)``."""
    losses = cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def packed_mask(segments: Tensor, prefix: int) -> Tensor:
    """``(R, 1, L, prefix + L)`` float32 mask to add: every question sees the whole prefix and, causally, itself.

    Args:
        segments: ``(R, L)`` int64 question numbers, -1 on padding (padding sees padding, so no row is empty).
        prefix: cached positions in front of the row.
    """
    rows, length = segments.shape
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    own = (segments[:, :, None] == segments[:, None, :]) & causal
    seen = torch.ones(rows, length, prefix, dtype=torch.bool, device=segments.device)
    return torch.where(torch.cat([seen, own], -1)[:, None], 0.0, HIDDEN)
