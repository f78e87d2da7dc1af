"""Which jobs a sweep has: every point of a grid, or random draws that depend on the seed and on their number alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any, Protocol

from lit_simignore.config.typed import ConfigError
from lit_simignore.sweep.definition import Sweep

MOST_JOBS = 10_000

Outcome = tuple[dict[str, Any], float | None]
"""The values of a job, and its metric: ``None`` while it runs and where it failed."""


class Plan(Protocol):
    """Where the values of jobs come from.

    Attributes:
        total: how many jobs there are.
    """

    total: int

    def values(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Values of the job number ``index``, by parameter; ``outcomes`` are those of the jobs before it."""
        ...


class Grid:
    """Every combination, the last parameter fastest."""

    def __init__(self, sweep: Sweep, count: int | None) -> None:
        options = [parameter.options() for parameter in sweep.parameters.values()]
        most = count or sweep.run_cap or MOST_JOBS
        points = list(itertools.islice(itertools.product(*options), most + 1))
        if len(points) > most == MOST_JOBS:
            raise ConfigError("parameters", f"the grid has more than {MOST_JOBS:,} points; set run_cap or --count")
        self._points = [dict(zip(sweep.parameters, point, strict=True)) for point in points[:most]]
        self.total = len(self._points)

    def values(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        return self._points[index]


class Draws:
    """Independent random values; more jobs can be asked for later without changing the first ones."""

    def __init__(self, sweep: Sweep, count: int | None, seed: int) -> None:
        self.total = number_of_jobs(sweep, count)
        self._sweep, self._seed = sweep, seed

    def values(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        return {
            name: parameter.draw(random.Random(f"{self._seed} {index} {name}"))
            for name, parameter in self._sweep.parameters.items()
        }


def make_plan(sweep: Sweep, count: int | None, seed: int) -> Plan:
    """The plan of a sweep.

    Args:
        sweep: what the file says.
        count: most jobs; ``None`` takes the file's run_cap, and for a grid all.
        seed: of random values.

    Raises:
        ConfigError: the parameters do not fit the method, nobody says how many jobs there are, or the method needs a
            package that is not installed.
    """
    if sweep.method == "grid":
        return Grid(sweep, count)
    if sweep.method == "random":
        return Draws(sweep, count, seed)
    from lit_simignore.sweep.bayes import Bayes

    return Bayes(sweep, count, seed)


def number_of_jobs(sweep: Sweep, count: int | None) -> int:
    """How many jobs a search without an end has.

    Raises:
        ConfigError: nobody says.
    """
    found = count or sweep.run_cap
    if found is None:
        raise ConfigError("run_cap", f"a {sweep.method} search has no end by itself; set run_cap or give --count")
    return found
