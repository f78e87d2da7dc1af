from __future__ import annotations

from itertools import product

import pytest
import torch

from lit_simignore.attribution.clusters import _lloyd, _seeds, ablations, kmeans, partial_ablations, verdicts
from lit_simignore.types import UserError


def blobs(sizes: list[int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.eye(len(sizes), 6)
    rows = [centre + torch.randn(size, 6, generator=generator) for centre, size in zip(centres, sizes, strict=True)]
    return torch.cat(rows)


def test_separate_blobs_are_found_and_numbered_by_their_first_token() -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    truth = torch.tensor([0] * 5 + [1] * 12 + [2] * 7)[order]
    found = kmeans(blobs([5, 12, 7])[order], 3)
    names = list(dict.fromkeys(truth.tolist()))
    assert found.labels.tolist() == [names.index(label) for label in truth.tolist()]
    assert found.sizes.tolist() == [[5, 12, 7][name] for name in names]


def test_no_partition_of_a_few_points_is_better() -> None:
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(7))
    best = float("inf")
    for labels in product(range(3), repeat=8):
        if len(set(labels)) < 3:
            continue
        groups = [points[[i for i in range(8) if labels[i] == name]] for name in range(3)]
        best = min(best, sum(float((group - group.mean(0)).square().sum()) for group in groups))
    assert kmeans(points, 3, num_starts=30).inertia == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_a_fixed_point(seed: int) -> None:
    """Every centre is the mean of its tokens, and every token is with its nearest centre."""
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    found = kmeans(rows, 5, seed=seed)
    for cluster in range(5):
        assert torch.allclose(found.centres[cluster], rows[found.members(cluster)].mean(0), atol=1e-5)
    for row, label in zip(rows, found.labels.tolist(), strict=True):
        distances = [float((row - centre).square().sum()) for centre in found.centres]
        assert distances[label] <= min(distances) + 1e-5


def test_the_seed_alone_decides() -> None:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    first = kmeans(rows, 6, seed=2, num_starts=1)
    torch.manual_seed(77)
    assert torch.equal(first.labels, kmeans(rows, 6, seed=2, num_starts=1).labels)
    others = [kmeans(rows, 6, seed=seed, num_starts=1).labels for seed in range(6)]
    assert any(not torch.equal(first.labels, other) for other in others)


def test_fewer_distinct_rows_give_fewer_clusters() -> None:
    rows = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 3)
    found = kmeans(rows, 5)
    assert found.labels.tolist() == [0] * 4 + [1] * 3 and found.inertia == 0
    assert kmeans(rows[:1], 5).sizes.tolist() == [1]


def test_an_empty_cluster_takes_the_loneliest_token() -> None:
    points = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    found = _lloyd(points, torch.tensor([[0.0], [500.0]]), 20)  # no token is near the second centre
    assert found.labels.tolist() == [0, 0, 0, 1]
    many = torch.randn(12, 1, generator=torch.Generator().manual_seed(0))
    starved = _lloyd(many, torch.full((8, 1), 50.0), 20)
    assert sorted(starved.labels.unique().tolist()) == list(range(8))


def test_seeds_are_distinct_and_drawn_in_proportion_to_the_squared_distance() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0]])
    second = {1.0: 0, 3.0: 0}
    for seed in range(2000):
        seeds = _seeds(points, 3, torch.Generator().manual_seed(seed)).flatten().tolist()
        assert sorted(seeds) == [0.0, 1.0, 3.0]
        if seeds[0] == 0.0:
            second[seeds[1]] += 1
    assert abs(second[3.0] / sum(second.values()) - 0.9) < 0.04  # 9 against 1


def test_every_set_of_clusters_is_left_out_once_and_never_all() -> None:
    clusters = kmeans(blobs([2, 3, 4]), 3)
    sets = list(ablations(clusters, sizes=(2, 1, 3, 0)))
    assert [each.clusters for each in sets] == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    assert sets[0].kept.tolist() == list(range(2, 9))
    assert sets[5].kept.tolist() == [0, 1]


def test_parts_of_a_cluster_are_left_out_in_order() -> None:
    clusters = kmeans(blobs([3, 4]), 2)
    kept = [each.kept.tolist() for each in partial_ablations(clusters, 1, [0, 1, 4])]
    assert kept == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 4, 5, 6], [0, 1, 2]]


def test_a_set_is_a_spy_if_the_answer_turns_right_without_it() -> None:
    assert verdicts(False, [True, False]) == ["spy", "neutral"]
    assert verdicts(True, [True, False]) == ["neutral", "needed"]


def test_nothing_to_cluster_is_refused() -> None:
    for rows, count in ((torch.zeros(0, 3), 2), (torch.zeros(4, 3), 0), (torch.zeros(4), 2)):
        with pytest.raises(UserError, match="at least one cluster"):
            kmeans(rows, count)
