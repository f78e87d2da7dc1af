"""LLaVA-CAM: class activation maps over visual tokens, from features of decoder layers and their gradients.

Features are those behind the norm in front of the MLP (``post_attention_layernorm``), as in the paper. In the last
layer no path leads from a visual token's features to the answer, so its map is zero by construction: attention, the
only way between tokens, lies before the features. The released maps of that layer come from reading the answer inside
the image (:func:`~lit_simignore.attribution.targets.released_score`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_simignore.types import UserError

MODES = ("grad_cam", "released")


def class_activation(features: Tensor, gradient: Tensor, *, mode: str = "grad_cam") -> Tensor:
    """``(I,)`` float32 map, at least 0, not normalised.

    Args:
        features: ``(I, C)`` features of the visual tokens in one layer.
        gradient: ``(I, C)`` gradient of the target with respect to them.
        mode: ``grad_cam``: channels weighted by their mean gradient, ``ReLU(sum_c w_c F_c)``. ``released``: the mean
            of the gradient's positive part, and the mean instead of the sum over channels, so that no channel ever
            counts against the answer.

    Raises:
        UserError: unknown mode, or shapes that differ.

    Source: "From Redundancy to Relevance", NAACL 2025, arXiv:2406.06579, section 3.2; Grad-CAM, Selvaraju et al. 2017.
    """
    if mode not in MODES:
        raise UserError(f"mode of the map must be one of {', '.join(MODES)}; got {mode!r}")
    if features.ndim != 2 or features.shape != gradient.shape:
        raise UserError(
            f"expected features and gradient (I, C) of one shape; got {tuple(features.shape)} and "
            f"{tuple(gradient.shape)}"
        )
    features, gradient = features.float(), gradient.float()
    if mode == "released":
        return (features @ gradient.relu().mean(dim=0) / features.shape[1]).relu()
    return (features @ gradient.mean(dim=0)).relu()


def layer_activations(
    features: Sequence[Tensor], gradients: Sequence[Tensor], visual: Tensor, *, mode: str = "grad_cam"
) -> Tensor:
    """``(N, I)`` float32 maps of N layers, not normalised.

    Args:
        features: ``(L, C)`` per layer, of one sample.
        gradients: the same, from one backward pass (:func:`~lit_simignore.attribution.saliency.gradients`).
        visual: ``(L,)`` bool.
        mode: see :func:`class_activation`.
    """
    maps = [
        class_activation(rows[visual], slope[visual], mode=mode)
        for rows, slope in zip(features, gradients, strict=True)
    ]
    return torch.stack(maps)


def normalise(maps: Tensor, *, floor: float = 0.0) -> Tensor:
    """``(..., I)`` maps with a maximum of 1; a map of zeros stays one.

    Args:
        maps: at least 0.
        floor: values of the result below it become 0. The released pictures use 0.5, which hides how flat a map is.
    """
    top = maps.amax(dim=-1, keepdim=True)
    scaled = maps / torch.where(top > 0, top, torch.ones_like(top))
    return scaled.masked_fill(scaled < floor, 0.0)


def smooth(
    run: Callable[[Tensor], Tensor], inputs: Tensor, *, sigma: float = 0.1, num_samples: int = 50, seed: int = 0
) -> Tensor:
    """Mean of ``run`` over noisy copies of ``inputs`` (SmoothGrad); normalise afterwards, not before.

    Args:
        run: maps of one noisy copy, of any fixed shape.
        inputs: pixel values or embeddings; noise is added in their units.
        sigma: standard deviation of the noise; 0 runs once, without any.
        num_samples: noisy copies. The paper gives neither number; 0.1 and 50 stand in its code, which never uses them.
        seed: of the noise, which is drawn on the CPU.

    Raises:
        UserError: a negative ``sigma`` or no copies.

    Source: Smilkov et al. 2017, arXiv:1706.03825, section 2.2.
    """
    if sigma < 0 or num_samples < 1:
        raise UserError(f"expected sigma >= 0 and num_samples >= 1; got sigma={sigma}, num_samples={num_samples}")
    if sigma == 0:
        return run(inputs)
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    for _ in range(num_samples):
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        found = run(inputs + sigma * noise).detach()
        total = found if total is None else total + found
    assert total is not None
    return total / num_samples


def share_on(maps: Tensor, tokens: Tensor) -> Tensor:
    """``(...,)`` part of each map's heat that lies on the visual ``tokens``; NaN for a map of zeros.

    Uniform heat gives ``len(tokens) / I``.

    Args:
        maps: ``(..., I)``, at least 0.
        tokens: int64 indices among the I visual tokens.
    """
    return maps[..., tokens].sum(dim=-1) / maps.sum(dim=-1)
