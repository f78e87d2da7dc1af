"""Which attention matters for the answer: |attention x gradient of the answer's score|.

Gradients with respect to attention need no attention map from the kernel: the gradient of a layer's mixed values times
the values is the gradient of its probabilities (:func:`row_saliency`). Models that do return maps are served too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_simignore.types import UserError


def gradients(target: Tensor, tensors: Sequence[Tensor], *, keep_graph: bool = False) -> tuple[Tensor, ...]:
    """Gradients of a scalar with respect to ``tensors`` of one forward pass, by a single backward pass for all.

    Nothing is accumulated in parameters. A tensor that the target does not depend on has a gradient of zeros.

    Args:
        target: scalar, see :mod:`lit_simignore.attribution.targets`.
        tensors: attention maps, features or mixed values, one per layer.
        keep_graph: keep what a second call for another target needs.

    Raises:
        UserError: a tensor without a graph.
    """
    missing = [str(index) for index, tensor in enumerate(tensors) if not tensor.requires_grad]
    if missing or not target.requires_grad:
        where = f"tensor {missing[0]}" if missing else "the target"
        raise UserError(
            f"{where} has no graph to differentiate; run the model outside torch.no_grad() with an input or a "
            "parameter that requires a gradient"
        )
    found = torch.autograd.grad(target, list(tensors), retain_graph=keep_graph, allow_unused=True)
    return tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, found, strict=True)
    )


def attention_saliency(attention: Tensor, gradient: Tensor) -> Tensor:
    """``|attention * gradient|``, of any shape.

    Source: Simonyan et al. (2014) applied to attention, as in "Label Words are Anchors" (EMNLP 2023), Eq. 1; its sum
    over heads is theirs. LVLMs-Saliency (arXiv:2601.20279) takes the mean.
    """
    return (attention * gradient).abs()


def row_saliency(probabilities: Tensor, value: Tensor, output_gradient: Tensor) -> Tensor:
    """``(H, R, K)`` float32 saliency of chosen query rows, whichever kernel computed the layer.

    The mixed values of a row are ``attention @ value``, so the gradient of its attention is
    ``output_gradient @ value^T``.

    Args:
        probabilities: ``(H, R, K)`` attention of the rows, recomputed beside the kernel.
        value: ``(G, K, e)`` the layer's values; G divides H.
        output_gradient: ``(R, H, e)`` gradient of the target with respect to the rows' mixed values, before the
            output projection.
    """
    groups = len(value)
    grouped = output_gradient.float().unflatten(1, (groups, output_gradient.shape[1] // groups))
    gradient = torch.einsum("rghe,gke->ghrk", grouped, value.float()).flatten(0, 1)
    return attention_saliency(probabilities.float(), gradient)


def mean_saliency(saliency: Tensor, *, unit_rows: bool = False) -> Tensor:
    """``(R, K)`` mean over heads of ``(H, R, K)``, each row of Euclidean length 1 on request (rows of zeros stay)."""
    mean = saliency.mean(dim=0)
    if not unit_rows:
        return mean
    length = mean.norm(dim=-1, keepdim=True)
    return mean / torch.where(length > 0, length, torch.ones_like(length))
