"""What the numbers of a method mean, in words: better, worse, or not to be told apart from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from lit_simignore.report.formats import p_relation, percent, plural, signed, times, tokens
from lit_simignore.report.summary import MethodRow, RunView

ALPHA = 0.05


class Verdict(Enum):
    """Value: the words for a person."""

    BASELINE = "baseline"
    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "not distinguishable"
    UNTESTED = "not tested"


_PHRASES = {
    Verdict.BETTER: "better than",
    Verdict.WORSE: "worse than",
    Verdict.UNCLEAR: "not distinguishable from",
}


def verdict(row: MethodRow) -> Verdict:
    """Judge one method at p < 0.05 (Holm-corrected where known), in the direction of its flips."""
    if row.is_baseline:
        return Verdict.BASELINE
    if row.p is None:
        return Verdict.UNTESTED
    if row.p >= ALPHA:
        return Verdict.UNCLEAR
    return Verdict.BETTER if _direction(row) > 0 else Verdict.WORSE


def _direction(row: MethodRow) -> float:
    if row.fixed is not None and row.broken is not None and row.fixed != row.broken:
        return float(row.fixed - row.broken)
    return row.delta or 0.0


def headline(view: RunView) -> str:
    """The finding of a run in a few short sentences."""
    baseline, methods = view.baseline, [row for row in view.methods if row.accuracy is not None]
    if not methods:
        return _baseline_sentence(baseline)
    highest, cheapest = _highest(methods, baseline), _cheapest(methods, baseline)
    if len(methods) == 1 and highest:
        cheapest = ""  # the same method, which has been described
    return " ".join(sentence for sentence in (_tally(methods), highest, cheapest) if sentence)


def _baseline_sentence(baseline: MethodRow | None) -> str:
    if baseline is None or baseline.accuracy is None:
        return "Nothing has been scored yet."
    return f"The untouched model answers {percent(baseline.accuracy)}% of {plural(baseline.n, 'sample')} correctly."


def _tally(methods: Sequence[MethodRow]) -> str:
    found = [kind for kind in map(verdict, methods) if kind is not Verdict.UNTESTED]
    if not found:
        return ""
    if len(found) == 1:
        tested = next(row for row in methods if verdict(row) is found[0])
        return f"{tested.name} is {_PHRASES[found[0]]} the baseline."
    if set(found) == {Verdict.UNCLEAR}:
        return f"None of the {len(found)} methods is distinguishable from the baseline."
    if len(set(found)) == 1:
        return f"All {len(found)} methods are {_PHRASES[found[0]]} the baseline."
    counts = [(found.count(kind), phrase) for kind, phrase in _PHRASES.items() if kind in found]
    clauses = [f"{number} {'is' if number == 1 else 'are'} {phrase}" for number, phrase in counts]
    return f"Of {len(found)} methods, {', '.join(clauses)} the baseline."


def _highest(methods: Sequence[MethodRow], baseline: MethodRow | None) -> str:
    """The best method, where it beats the baseline or nothing was tested or everything is worse."""
    best = max(methods, key=lambda row: row.accuracy or 0.0)
    if verdict(best) is Verdict.UNCLEAR:
        return ""
    return f"Highest accuracy: {_described(best, baseline)}."


def _cheapest(methods: Sequence[MethodRow], baseline: MethodRow | None) -> str:
    """The method of the fewest visual tokens among those that were tested and not found worse."""
    full = None if baseline is None else baseline.budget.get("layer_mean")
    sound = [
        row for row in methods if verdict(row) in (Verdict.BETTER, Verdict.UNCLEAR) and _spent(row) < (full or 0.0)
    ]
    if not sound:
        return ""
    fewest = min(sound, key=lambda row: (_spent(row), -(row.accuracy or 0.0)))
    lead = "Fewest visual tokens without being found worse: " if len(methods) > 1 else ""
    return f"{lead}{_described(fewest, baseline)}."


def _spent(row: MethodRow) -> float:
    spent = row.budget.get("layer_mean")
    return float("inf") if spent is None else spent


def _described(row: MethodRow, baseline: MethodRow | None) -> str:
    """``name, 74.5% (+0.5 points, p = 0.625), with 72 of 144 visual tokens per layer, prefill 1.65x as fast``."""
    clauses = [f"{row.name}, {percent(row.accuracy)}%{_against(row)}", _tokens(row, baseline)]
    speedup = row.efficiency.get("speedup_prefill")
    clauses.append("" if speedup is None else f"prefill {times(speedup)} as fast")
    return ", ".join(clause for clause in clauses if clause)


def _against(row: MethodRow) -> str:
    if row.delta is None:
        return ""
    p = "" if row.p is None else f", {p_relation(row.p)}"
    return f" ({signed(row.delta)} points{p})"


def _tokens(row: MethodRow, baseline: MethodRow | None) -> str:
    spent, total = row.budget.get("layer_mean"), row.budget.get("total")
    if baseline is not None:
        total = baseline.budget.get("layer_mean") or total
    return "" if spent is None or not total else f"with {tokens(spent)} of {tokens(total)} visual tokens per layer"
