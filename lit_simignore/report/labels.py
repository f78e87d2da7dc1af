"""Names beside points without overlap: every label takes the cheapest free place near one of its points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_DISTANCES = (9.0, 15.0, 24.0, 36.0, 52.0)
_ANGLES = tuple(math.radians(degrees) for degrees in (0, 180, -90, 90, -45, 45, -135, 135, -22, 22, -158, 158, -68, 68))


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether ``other`` lies within."""
        return (
            self.left <= other.left
            and self.right >= other.right
            and self.top <= other.top
            and self.bottom >= other.bottom
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label went. ``leader`` is the point to join it with when it lies far off."""

    box: Box
    leader: tuple[float, float] | None


def around(x: float, y: float, radius: float) -> Box:
    """The square about a point."""
    return Box(x - radius, y - radius, x + radius, y + radius)


def text_width(text: str, size: float) -> float:
    """A width that no common sans-serif face exceeds for ordinary names, in pixels."""
    wide = sum(1.0 if ord(letter) > 0x2E7F else 0.76 if letter in "mwMW@%" else 0.57 for letter in text)
    return wide * size


def place_labels(
    wanted: Sequence[tuple[float, float, Sequence[tuple[float, float]]]],
    hard: Iterable[Box],
    soft: Iterable[Box],
    bounds: Box,
) -> list[Place | None]:
    """Place labels one after the other.

    Args:
        wanted: for each label its width, its height and the points it may stand by, best first.
        hard: what no label may cover (markers, other text).
        soft: what a label had better not cover (error bars, lines).
        bounds: what every label must lie within.

    Returns:
        For each label its place, or ``None`` where no place is free.
    """
    markers = list(hard)
    taken, avoided = list(markers), list(soft)
    places: list[Place | None] = []
    for width, height, points in wanted:
        place = _best(width, height, points, taken, avoided, markers, bounds)
        places.append(place)
        if place is not None:
            taken.append(place.box)
    return places


def _best(
    width: float,
    height: float,
    points: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    avoided: Sequence[Box],
    markers: Sequence[Box],
    bounds: Box,
) -> Place | None:
    best, lowest = None, math.inf
    for rank, (x, y) in enumerate(points):
        for ring, distance in enumerate(_DISTANCES):
            for turn, angle in enumerate(_ANGLES):
                box = _candidate(x, y, width, height, distance, angle)
                if not bounds.holds(box) or any(box.meets(other) for other in taken):
                    continue
                cost = 30 * ring + turn + 8 * rank + 12 * min(4, sum(box.meets(other) for other in avoided))
                cost += 90 * _nearer_to_another(box, x, y, markers)
                if cost < lowest:
                    lowest, best = cost, Place(box, (x, y) if ring >= 2 else None)
    return best


def _nearer_to_another(box: Box, x: float, y: float, markers: Sequence[Box]) -> bool:
    """Whether a reader could take the label for that of another marker."""
    own = _gap(box, x, y)
    for marker in markers:
        other_x, other_y = (marker.left + marker.right) / 2, (marker.top + marker.bottom) / 2
        if (other_x, other_y) != (x, y) and _gap(box, other_x, other_y) < own + 4:
            return True
    return False


def _gap(box: Box, x: float, y: float) -> float:
    return math.hypot(max(box.left - x, 0, x - box.right), max(box.top - y, 0, y - box.bottom))


def _candidate(x: float, y: float, width: float, height: float, distance: float, angle: float) -> Box:
    # The box touches the circle of `distance` about the point with the side that looks at it.
    dx, dy = math.cos(angle), math.sin(angle)
    centre_x = x + dx * distance + (math.copysign(width / 2, dx) if abs(dx) > 0.3 else 0.0)
    centre_y = y + dy * distance + (math.copysign(height / 2, dy) if abs(dy) > 0.3 else 0.0)
    return Box(centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2)
