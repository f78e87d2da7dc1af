"""``summary.json`` read into clean rows: numbers are finite or ``None``, strings are strings, the baseline is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lit_simignore.report.formats import number, one_line
from lit_simignore.types import UserError

BASELINE = "baseline"
_NAME_LIMIT = 120


@dataclass(frozen=True, slots=True)
class KindScore:
    """Accuracy (0..1) on the ``n`` samples of one question kind."""

    n: int
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method of a summary.

    Shares are 0..1, ``delta`` and its interval are in percentage points against the baseline. ``key`` is the method's
    name as it stands in the records, ``name`` the same fit for showing.
    """

    key: str
    name: str
    is_baseline: bool
    n: int
    errors: int
    unparsed: int
    split: int
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    p_value: float | None
    p_holm: float | None
    fixed: int | None
    broken: int | None
    same_output: float | None
    needed_recall: float | None
    needed_carried: float | None = None
    budget: Mapping[str, float | None] = field(default_factory=dict)
    by_kind: Mapping[str, KindScore] = field(default_factory=dict)
    extra: Mapping[str, float | None] = field(default_factory=dict)
    efficiency: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def p(self) -> float | None:
        """The p that verdicts go by: Holm-corrected where there is one."""
        return self.p_value if self.p_holm is None else self.p_holm


@dataclass(frozen=True, slots=True)
class RunView:
    """A whole summary. ``run`` holds the facts about the run as they stand in the file."""

    run: Mapping[str, object]
    rows: tuple[MethodRow, ...]

    @property
    def baseline(self) -> MethodRow | None:
        """The row of the untouched model, if it was run."""
        return next((row for row in self.rows if row.is_baseline), None)

    @property
    def methods(self) -> tuple[MethodRow, ...]:
        """All rows but the baseline's."""
        return tuple(row for row in self.rows if not row.is_baseline)

    @property
    def merges(self) -> bool:
        """Whether a method merges visual tokens, so that rows can carry patches whose places are gone."""
        return any(row.needed_carried is not None for row in self.rows)

    @property
    def num_samples(self) -> int:
        """Samples of the benchmark, scored or not."""
        return _whole(self.run.get("num_samples")) or max((row.n for row in self.rows), default=0)

    @property
    def complete(self) -> bool:
        """Whether every sample has been through every method."""
        return self.run.get("complete") is not False

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the benchmark's own numbers that are quoted most, as far as some method has them."""
        value = self.run.get("headline")
        names = [str(name) for name in value] if isinstance(value, list | tuple) else []
        return tuple(name for name in names if any(row.extra.get(name) is not None for row in self.rows))

    def fact(self, key: str) -> str:
        """One fact about the run as one line of text; empty if it is not known."""
        value = self.run.get(key)
        return "" if value is None or isinstance(value, Mapping) else one_line(value)


def read_summary(summary: object) -> RunView:
    """Turn the contents of ``summary.json`` into rows.

    Raises:
        UserError: it is not an object with a list of methods. Anything milder becomes ``None``.
    """
    if not isinstance(summary, Mapping) or not isinstance(summary.get("methods"), list | tuple):
        raise UserError(f'a summary is an object with a list "methods", got {type(summary).__name__}; run eval again')
    entries: Sequence[Mapping[str, object]] = [entry for entry in summary["methods"] if isinstance(entry, Mapping)]
    base = next((entry for entry in entries if entry.get("name") == BASELINE), None)
    base_accuracy = None if base is None else number(base.get("accuracy"))
    return RunView(run=_mapping(summary.get("run")), rows=tuple(_row(entry, base_accuracy) for entry in entries))


def _row(entry: Mapping[str, object], base_accuracy: float | None) -> MethodRow:
    name = str(entry.get("name", ""))
    accuracy, is_baseline = number(entry.get("accuracy")), name == BASELINE
    return MethodRow(
        key=name,
        name=one_line(name)[:_NAME_LIMIT] or "(no name)",
        is_baseline=is_baseline,
        n=_whole(entry.get("n")) or 0,
        errors=_whole(entry.get("errors")) or 0,
        unparsed=_whole(entry.get("unparsed")) or 0,
        split=_whole(entry.get("split")) or 0,
        accuracy=accuracy,
        ci_low=number(entry.get("ci_low")),
        ci_high=number(entry.get("ci_high")),
        delta=None if is_baseline else _delta(entry, accuracy, base_accuracy),
        delta_low=_points(entry.get("delta_low")),
        delta_high=_points(entry.get("delta_high")),
        p_value=number(entry.get("p_value")),
        p_holm=number(entry.get("p_holm")),
        fixed=_whole(entry.get("fixed")),
        broken=_whole(entry.get("broken")),
        same_output=number(entry.get("same_output")),
        needed_recall=number(entry.get("needed_recall")),
        needed_carried=number(entry.get("needed_carried")),
        budget=_numbers(entry.get("budget")),
        by_kind=_kinds(entry.get("by_kind")),
        extra=_numbers(entry.get("extra")),
        efficiency=_numbers(entry.get("efficiency")),
    )


def _delta(entry: Mapping[str, object], accuracy: float | None, base_accuracy: float | None) -> float | None:
    """The difference over common samples; where a summary lacks it, that of the accuracies."""
    paired = _points(entry.get("delta"))
    if paired is not None or accuracy is None or base_accuracy is None:
        return paired
    return 100 * (accuracy - base_accuracy)


def _points(value: object) -> float | None:
    found = number(value)
    return None if found is None else 100 * found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else max(0, round(found))


def _numbers(value: object) -> dict[str, float | None]:
    return {str(key): number(entry) for key, entry in _mapping(value).items()}


def _kinds(value: object) -> dict[str, KindScore]:
    kinds = {}
    for key, entry in _mapping(value).items():
        facts = _mapping(entry)
        kinds[str(key)] = KindScore(n=_whole(facts.get("n")) or 0, accuracy=number(facts.get("accuracy")))
    return kinds
