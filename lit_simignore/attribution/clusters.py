"""Which visual tokens lead the answer astray: cluster them, ignore clusters, see which answers flip.

Simignore's motivation: a wrong answer turns right when certain "spy" tokens are ignored, although nothing was added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lit_simignore.types import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """A clustering of visual tokens.

    Args:
        labels: ``(I,)`` int64 cluster of every token; clusters are numbered by their first token.
        centres: ``(K, D)`` float32 means.
        inertia: sum of squared distances to the centres.
    """

    labels: Tensor
    centres: Tensor
    inertia: float

    @property
    def sizes(self) -> Tensor:
        """``(K,)`` int64 tokens per cluster."""
        return self.labels.bincount(minlength=len(self.centres))

    def members(self, cluster: int) -> Tensor:
        """Ascending int64 indices of a cluster's tokens."""
        return (self.labels == cluster).nonzero()[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """Visual tokens without some clusters.

    Args:
        clusters: those that are ignored, ascending.
        kept: ``(K,)`` int64 ascending indices of the tokens that stay.
    """

    clusters: tuple[int, ...]
    kept: Tensor


def kmeans(
    rows: Tensor, num_clusters: int = 5, *, seed: int = 0, num_starts: int = 4, num_iterations: int = 100
) -> Clusters:
    """K-means (Lloyd) from k-means++ seeds, the best of several starts; the same seed gives the same clusters.

    Args:
        rows: ``(I, D)`` visual tokens, float.
        num_clusters: clusters; fewer come back where there are fewer distinct rows.
        seed: of the starts.
        num_starts: starts, of which the one with the least inertia counts.
        num_iterations: most rounds per start; it ends earlier once no label changes.

    Raises:
        UserError: no rows, or fewer than one cluster.

    Source: Arthur and Vassilvitskii, SODA 2007 (seeding). Simignore, arXiv:2412.09817, Table 5 and Figure 7, clusters
    576 image embeddings into 5; its script is not public.
    """
    if rows.ndim != 2 or not len(rows) or num_clusters < 1:
        raise UserError(f"expected rows (I, D) and at least one cluster; got {tuple(rows.shape)} and {num_clusters}")
    points = rows.detach().float()
    generator = torch.Generator().manual_seed(seed)
    found = [_lloyd(points, _seeds(points, num_clusters, generator), num_iterations) for _ in range(max(1, num_starts))]
    return min(found, key=lambda clusters: clusters.inertia)


def _seeds(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """``(K, D)`` rows, each drawn with a chance in proportion to its squared distance from those drawn before."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < num_clusters and bool(distance.max() > 0):
        weights = distance.double().cpu()
        draw = torch.rand(1, generator=generator, dtype=torch.float64) * weights.sum()
        # the first row whose running total exceeds the draw has a distance of its own, so it is a new row
        chosen.append(min(int((weights.cumsum(dim=0) <= draw).sum()), len(points) - 1))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(dim=1))
    return points[chosen].clone()


def _lloyd(points: Tensor, centres: Tensor, num_iterations: int) -> Clusters:
    labels = torch.full((len(points),), -1, device=points.device)
    for _ in range(max(1, num_iterations)):
        distance = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.argmin(dim=1)
        for empty in (nearest.bincount(minlength=len(centres)) == 0).nonzero()[:, 0].tolist():
            nearest[_loneliest(distance, nearest)] = empty
        if torch.equal(nearest, labels):
            break
        labels = nearest
        centres = _means(points, labels, len(centres))
    return _numbered(points, labels, centres)


def _loneliest(distance: Tensor, labels: Tensor) -> int:
    """The row farthest from its centre, among clusters that can spare one."""
    own = distance.gather(1, labels[:, None])[:, 0]
    spare = labels.bincount(minlength=distance.shape[1])[labels] > 1
    return int(own.masked_fill(~spare, -1).argmax())


def _means(points: Tensor, labels: Tensor, num_clusters: int) -> Tensor:
    members = torch.nn.functional.one_hot(labels, num_clusters).to(points)
    return (members.T @ points) / members.sum(dim=0)[:, None]


def _numbered(points: Tensor, labels: Tensor, centres: Tensor) -> Clusters:
    """Clusters renamed in the order of their first tokens, so that equal partitions are equal."""
    names = labels.tolist()
    order = list(dict.fromkeys(names))
    rank = torch.empty(len(centres), dtype=torch.long, device=labels.device)
    rank[order] = torch.arange(len(order), device=labels.device)
    labels, centres = rank[labels], centres[order]
    return Clusters(labels, centres, float((points - centres[labels]).square().sum()))


def ablations(clusters: Clusters, sizes: Sequence[int] = (1, 2)) -> Iterator[Ablation]:
    """Every set of ``sizes`` clusters left out, smallest sets first; never all clusters at once."""
    total = len(clusters.centres)
    for size in sorted(set(sizes)):
        if not 0 < size < total:
            continue
        for ignored in combinations(range(total), size):
            gone = torch.isin(clusters.labels, torch.tensor(ignored, device=clusters.labels.device))
            yield Ablation(ignored, (~gone).nonzero()[:, 0])


def partial_ablations(clusters: Clusters, cluster: int, counts: Sequence[int]) -> Iterator[Ablation]:
    """One cluster's first ``n`` tokens left out, for every ``n`` of ``counts``: how many does it take to flip?"""
    members = clusters.members(cluster)
    everything = torch.arange(len(clusters.labels), device=members.device)
    for count in counts:
        yield Ablation((cluster,), everything[~torch.isin(everything, members[:count])])


def verdicts(before: bool, after: Sequence[bool]) -> list[str]:
    """What the answers say of the sets that were left out.

    Args:
        before: whether the answer with all tokens is right.
        after: whether it is right without each set.

    Returns:
        Per set ``spy`` (wrong becomes right), ``needed`` (right becomes wrong) or ``neutral``.
    """
    return ["neutral" if right == before else "spy" if right else "needed" for right in after]
