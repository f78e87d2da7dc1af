"""A sweep as what is shown of it: its jobs, one row per job and method, and what the parameters were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from lit_simignore.metrics.statistics import holm
from lit_simignore.report.formats import one_line
from lit_simignore.report.palette import series_of
from lit_simignore.report.summary import MethodRow, RunView
from lit_simignore.report.sweep_pareto import front

NAMED_BY_METHOD = ("methods", "pruning", "budget")
"""Parameters that the name of a method tells."""


@dataclass(frozen=True, slots=True)
class SweepJob:
    """One job.

    Args:
        name: of its run folder.
        values: by parameter, as plain data.
        state: in words.
        note: why it is not complete, if that is known.
        view: its summary, if there is one.
    """

    name: str
    values: Mapping[str, object]
    state: str = "complete"
    note: str = ""
    view: RunView | None = None


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One method of one job; or the untouched model, once for all jobs in which it gave the same numbers.

    Args:
        jobs: names; one, except for the untouched model.
        values: of the parameters; empty for the untouched model.
        row: its numbers. ``p_holm`` is corrected for all comparisons of the sweep.
        where: model and benchmark.
        time_share: measured prefill time as a share of the baseline's in the same job.
    """

    jobs: tuple[str, ...]
    values: Mapping[str, object]
    row: MethodRow
    where: str
    time_share: float | None

    @property
    def tflops(self) -> float | None:
        """Cost of the prefill."""
        return self.row.budget.get("prefill_tflops")

    @property
    def milliseconds(self) -> float | None:
        """Measured time of the prefill."""
        return self.row.efficiency.get("prefill_ms")

    @property
    def series(self) -> str:
        """The method without its budget."""
        return series_of(self.row.name)


@dataclass(frozen=True, slots=True)
class SweepView:
    """Everything that is shown.

    Args:
        name: of the sweep.
        total: jobs that there are to be.
        jobs: those that are known.
        rows: the untouched model first.
        varied: parameters with several values.
        constants: the others.
        facts: about the runs.
    """

    name: str
    total: int
    jobs: tuple[SweepJob, ...]
    rows: tuple[SweepRow, ...]
    varied: tuple[str, ...]
    constants: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> int:
        """Number of complete jobs."""
        return sum(job.state == "complete" for job in self.jobs)

    @property
    def scored(self) -> tuple[SweepRow, ...]:
        """Rows that have an accuracy."""
        return tuple(row for row in self.rows if row.row.accuracy is not None)

    @property
    def compared(self) -> tuple[SweepRow, ...]:
        """Scored rows but those of the untouched model."""
        return tuple(row for row in self.scored if not row.row.is_baseline)

    @property
    def one_place(self) -> bool:
        """Whether all rows are of one model and benchmark, so that their costs can be compared as they are."""
        return len({row.where for row in self.rows}) <= 1

    def time(self, row: SweepRow) -> float | None:
        """What stands for measured time: a share of the baseline's within one model, else milliseconds."""
        return row.time_share if self.one_place else row.milliseconds

    def best_by_flops(self) -> set[int]:
        """Places in :attr:`rows` of the Pareto front of accuracy against FLOPs."""
        return front([(row.tflops, row.row.accuracy) for row in self.rows])

    def best_by_time(self) -> set[int]:
        """Places in :attr:`rows` of the Pareto front of accuracy against measured time."""
        return front([(self.time(row), row.row.accuracy) for row in self.rows])


def build_view(
    name: str, total: int, jobs: Sequence[SweepJob], given: Mapping[str, object] | None = None
) -> SweepView:
    """Put the jobs' summaries together.

    Args:
        name: of the sweep.
        total: jobs that there are to be.
        jobs: in their order.
        given: what every job was given besides its values, and stronger than them.
    """
    rows = [row for job in jobs if job.view is not None for row in _rows(job, job.view)]
    baselines = [row for row in rows if row.row.is_baseline]
    rows = [*_merged(baselines), *(row for row in rows if not row.row.is_baseline)]
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    seen = {key: {repr(job.values.get(key)) for job in jobs} for key in keys}
    varied = tuple(key for key in keys if len(seen[key]) > 1)
    constants = {key: jobs[0].values[key] for key in keys if len(seen[key]) == 1}
    constants |= given or {}
    return SweepView(name, max(total, len(jobs)), tuple(jobs), _corrected(rows), varied, constants, _facts(jobs))


def _rows(job: SweepJob, view: RunView) -> list[SweepRow]:
    facts = [view.fact("model"), view.fact("benchmark"), view.fact("protocol"), str(view.num_samples)]
    return [SweepRow((job.name,), job.values, row, " · ".join(facts), _share(row)) for row in view.rows]


def _share(row: MethodRow) -> float | None:
    speedup = 1.0 if row.is_baseline else row.efficiency.get("speedup_prefill")
    return 1 / speedup if speedup and row.efficiency.get("prefill_ms") is not None else None


def _merged(baselines: Sequence[SweepRow]) -> list[SweepRow]:
    """Jobs of one model and benchmark answer the same untouched: shown once, at the median of its times."""
    groups: dict[object, list[SweepRow]] = {}
    for row in baselines:
        key = (row.where, row.row.n, row.row.errors, row.row.accuracy, row.tflops)
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        first, times = group[0], [row.milliseconds for row in group if row.milliseconds is not None]
        efficiency = {**first.row.efficiency, "prefill_ms": median(times)} if times else first.row.efficiency
        jobs = tuple(name for row in group for name in row.jobs)
        share = next((row.time_share for row in group if row.time_share is not None), None)
        found.append(SweepRow(jobs, {}, replace(first.row, efficiency=efficiency), first.where, share))
    return found


def _corrected(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """Holm's correction over everything that is shown, instead of job by job."""
    tested = [index for index, row in enumerate(rows) if row.row.p_value is not None and 0 <= row.row.p_value <= 1]
    found = holm([rows[index].row.p_value or 0.0 for index in tested])
    adjusted = dict(zip(tested, found, strict=True))
    return tuple(replace(row, row=replace(row.row, p_holm=adjusted.get(index))) for index, row in enumerate(rows))


def _facts(jobs: Sequence[SweepJob]) -> dict[str, str]:
    """Facts on which all runs agree."""
    views = [job.view for job in jobs if job.view is not None]
    found = {}
    for key in ("model", "benchmark", "protocol", "num_samples", "seed"):
        values = {view.fact(key) for view in views}
        if len(values) == 1 and "" not in values:
            found[key] = values.pop()
    return found


def shown(value: object) -> str:
    """A parameter's value as text."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else one_line(value)
