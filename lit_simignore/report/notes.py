"""The plain sentences that belong under a table of results: what its columns mean, and what is wrong with the run."""

from __future__ import annotations

from lit_simignore.report.formats import count, plural
from lit_simignore.report.summary import MethodRow, RunView
from lit_simignore.report.verdict import ALPHA

_NAMED_AT_MOST = 6


def warnings(view: RunView) -> list[str]:
    """What is wrong with the run: missing samples, errors, outputs without an answer, unequal numbers."""
    return [*_incomplete(view), *_troubles(view), *_unequal(view)]


def explanations(view: RunView) -> list[str]:
    """What the columns mean, for the columns that have values, and what the test cannot show."""
    found = []
    if any(row.ci_low is not None for row in view.rows):
        found.append("Intervals are at 95%; those of differences respect the pairing, those of accuracies do not.")
    if any(row.p_value is not None for row in view.rows):
        compared = sum(row.p_value is not None for row in view.rows)
        found.append(
            "p: exact two-sided McNemar test on the samples whose correctness differs from the baseline's "
            f"(fixed against broken); p Holm: corrected for {plural(compared, 'comparison')}."
        )
        found.append("Not distinguishable means that the data show no difference, not that there is none.")
        found += _few_flips(view)
    if any(row.efficiency for row in view.rows):
        found.append("Milliseconds are measured, per sample, in a pass of their own; FLOPs are computed, per sample.")
    return found


def _incomplete(view: RunView) -> list[str]:
    if view.complete:
        return []
    done = min((row.n + row.errors for row in view.rows), default=0)
    missing = f"some method has only {count(done)} of {plural(view.num_samples, 'sample')}"
    reason = missing if done < view.num_samples else "its records do not cover every sample and method"
    return [f"Incomplete run: {reason}; the same command again goes on with it."]


def _troubles(view: RunView) -> list[str]:
    found = []
    for label, values in (
        ("Errors (left out of the accuracy)", [(row, row.errors) for row in view.rows]),
        ("Outputs without a readable answer", [(row, row.unparsed) for row in view.rows]),
        ("Answered in smaller batches, for lack of memory", [(row, row.split) for row in view.rows]),
    ):
        named = [f"{row.name} {count(value)}" for row, value in values if value]
        if named:
            found.append(f"{label}: {_listed(named)}.")
    return found


def _unequal(view: RunView) -> list[str]:
    baseline = view.baseline
    if baseline is None:
        return ["No baseline in this run: differences and p need the method 'baseline'."] if view.rows else []
    others = [row.name for row in view.methods if row.n != baseline.n]
    if not others:
        return []
    return [
        f"The accuracies stand on other samples than the baseline's {count(baseline.n)}: {_listed(others)}. "
        "Differences, flips and p use the samples scored for both."
    ]


def _few_flips(view: RunView) -> list[str]:
    named = [row.name for row in view.methods if _cannot_reach(row)]
    if not named:
        return []
    return [f"Fewer than 6 flips cannot give p < {ALPHA}, whatever their direction: {_listed(named)}."]


def _cannot_reach(row: MethodRow) -> bool:
    # The smallest two-sided p of d discordant pairs is 2 ** (1 - d): 0.0625 for five, 0.031 for six.
    return row.p_value is not None and row.fixed is not None and row.broken is not None and row.fixed + row.broken < 6


def _listed(names: list[str]) -> str:
    if len(names) <= _NAMED_AT_MOST:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED_AT_MOST])} and {len(names) - _NAMED_AT_MOST} more"
