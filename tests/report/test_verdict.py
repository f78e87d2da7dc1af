"""What is said about a method, and the sentence at the top of a report."""

from __future__ import annotations

from typing import Any

import pytest

from lit_simignore.report.summary import read_summary
from lit_simignore.report.verdict import Verdict, headline, verdict


def _method(name: str, accuracy: float, **values: Any) -> dict[str, Any]:
    tokens = values.pop("tokens", 144)
    return {"name": name, "n": 400, "accuracy": accuracy, "budget": {"layer_mean": tokens, "total": 144}, **values}


BASE = _method("baseline", 0.74)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"p_value": 0.001, "p_holm": 0.01, "fixed": 30, "broken": 5}, Verdict.BETTER),
        ({"p_value": 0.001, "p_holm": 0.01, "fixed": 5, "broken": 30}, Verdict.WORSE),
        ({"p_value": 0.02, "p_holm": 0.08, "fixed": 5, "broken": 30}, Verdict.UNCLEAR),
        ({"p_value": 0.02, "fixed": 5, "broken": 30}, Verdict.WORSE),
        ({"p_value": 0.05, "fixed": 5, "broken": 30}, Verdict.UNCLEAR),
        ({"p_value": 0.01, "delta": -0.1}, Verdict.WORSE),
        ({}, Verdict.UNTESTED),
    ],
)
def test_a_verdict_goes_by_the_corrected_p_and_the_direction_of_the_flips(values: Any, expected: Verdict) -> None:
    view = read_summary({"methods": [BASE, _method("m", 0.7, **values)]})
    assert [verdict(row) for row in view.rows] == [Verdict.BASELINE, expected]


def test_the_paired_difference_of_the_summary_goes_before_that_of_the_accuracies() -> None:
    view = read_summary({"methods": [BASE, _method("a", 0.70, delta=-0.02, delta_low=-0.03), _method("b", 0.70)]})
    assert view.rows[1].delta == pytest.approx(-2.0) and view.rows[1].delta_low == pytest.approx(-3.0)
    assert view.rows[2].delta == pytest.approx(-4.0)
    assert view.rows[0].delta is None


def test_the_finding_counts_verdicts_and_names_the_cheapest_sound_method() -> None:
    said = headline(
        read_summary(
            {
                "methods": [
                    BASE,
                    _method("a", 0.74, tokens=72, p_value=0.9, p_holm=1.0, fixed=8, broken=8),
                    _method("b", 0.60, tokens=9, p_value=1e-9, p_holm=1e-8, fixed=1, broken=80),
                    _method("c", 0.73, tokens=36, p_value=0.5, p_holm=1.0, fixed=8, broken=12, delta=-0.01),
                ]
            }
        )
    )
    assert said == (
        "Of 3 methods, 1 is worse than, 2 are not distinguishable from the baseline. "
        "Fewest visual tokens without being found worse: c, 73.0% (-1.0 points, p = 1.000), "
        "with 36 of 144 visual tokens per layer."
    )


def test_a_method_that_beats_the_baseline_is_named_first() -> None:
    said = headline(read_summary({"methods": [BASE, _method("eah", 0.8, p_value=1e-6, fixed=40, broken=4)]}))
    assert said == (
        "eah is better than the baseline. "
        "Highest accuracy: eah, 80.0% (+6.0 points, p < 0.001), with 144 of 144 visual tokens per layer."
    )


def test_one_method_is_described_once() -> None:
    better = _method("eah", 0.8, tokens=36, p_value=1e-6, fixed=40, broken=4)
    assert headline(read_summary({"methods": [BASE, better]})).count("36 of 144 visual tokens") == 1


def test_when_everything_is_worse_the_best_of_it_is_named() -> None:
    rows = [_method(name, 0.5 + index / 10, p_value=1e-6, fixed=1, broken=40) for index, name in enumerate("ab")]
    said = headline(read_summary({"methods": [BASE, *rows]}))
    assert said.startswith("All 2 methods are worse than the baseline. Highest accuracy: b, 60.0% (-14.0 points")


def test_nothing_is_claimed_without_a_test() -> None:
    said = headline(read_summary({"methods": [_method("a", 0.6), _method("b", 0.7)]}))
    assert said == "Highest accuracy: b, 70.0%, with 144 of 144 visual tokens per layer."


def test_a_baseline_alone_and_an_empty_run_are_said_plainly() -> None:
    assert headline(read_summary({"methods": [BASE]})) == "The untouched model answers 74.0% of 400 samples correctly."
    assert headline(read_summary({"methods": []})) == "Nothing has been scored yet."
