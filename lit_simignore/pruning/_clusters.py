"""Density-peak clustering over k nearest neighbours: the grouping behind SparseVLM's merged tokens."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def density_peaks(rows: Tensor, num_clusters: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cluster centres and the nearest centre of every row.

    Distance is ``Euclid / sqrt(D)``. Density is ``exp(-mean of the num_clusters smallest squared distances)``, the
    row itself included. Separation is the smallest distance to a denser row, or the largest distance of all where there
    is none. Centres are the rows with the largest density x separation.

    Args:
        rows: ``(n, D)`` float.
        num_clusters: 1 to n.
        noise: ``(n,)`` numbers in 0..1 that break ties of density, as 1e-6 of each is added; without it the earlier
            one of two equally dense rows counts as denser.

    Returns:
        Centres ``(num_clusters,)``, in descending order of density x separation, and for every row the number of its
        cluster ``(n,)`` (an index into the centres); a centre belongs to itself.
    """
    # The product form of the distance leaves rounding on the diagonal, which density would then read as distance.
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") / rows.shape[1] ** 0.5
    density = (-distance.topk(num_clusters, dim=1, largest=False).values.square().mean(dim=1)).exp()
    if noise is not None:
        density = density + 1e-6 * noise
        denser = density.unsqueeze(0) > density.unsqueeze(1)
    else:
        place = torch.argsort(torch.argsort(density, descending=True, stable=True))
        denser = place.unsqueeze(0) < place.unsqueeze(1)
    separation = torch.where(denser, distance, distance.max()).amin(dim=1)
    centres = torch.argsort(separation * density, descending=True, stable=True)[:num_clusters]
    cluster = distance[:, centres].argmin(dim=1)
    return centres, cluster.index_copy(0, centres, torch.arange(num_clusters, device=rows.device))


def tie_noise(key: str, layer: int, count: int) -> Tensor:
    """``(count,)`` uniform numbers on the CPU that depend on the sample and the layer alone."""
    digest = hashlib.sha256(f"density\x1f{layer}\x1f{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.rand(count, generator=generator)
