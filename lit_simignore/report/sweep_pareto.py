"""The Pareto front: what no other row beats in accuracy without costing more."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float | None, float | None]]) -> set[int]:
    """Places of the points that no other point dominates.

    A point dominates another one that costs as much or more and is worth as much or less, and differs in one of the
    two. Equal points are on the front together.

    Args:
        points: ``(cost, worth)``; those with ``None`` are left out.
    """
    places = enumerate(points)
    known = [(cost, worth, index) for index, (cost, worth) in places if cost is not None and worth is not None]
    found: set[int] = set()
    best, best_cost = float("-inf"), float("nan")
    for cost, worth, index in sorted(known, key=lambda point: (point[0], -point[1])):
        if worth > best:
            best, best_cost = worth, cost
        if worth == best and cost == best_cost:
            found.add(index)
    return found
