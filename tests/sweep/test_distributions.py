"""Values are drawn as W&B draws them: scipy is the oracle, and W&B's own engine where it is installed."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from scipy import stats

from lit_simignore.config.typed import ConfigError
from lit_simignore.sweep.distributions import read_parameter

CONTINUOUS: list[tuple[dict[str, Any], Any]] = [
    ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
    ({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}, stats.loguniform(1e-5, 1e-2)),
    ({"distribution": "inv_log_uniform_values", "min": 1e-5, "max": 1e-2}, stats.loguniform(1e-5, 1e-2)),
    ({"distribution": "log_uniform", "min": -3, "max": 0}, stats.loguniform(math.exp(-3), 1)),
    ({"distribution": "inv_log_uniform", "min": -3, "max": 0}, stats.loguniform(1, math.exp(3))),
    ({"distribution": "normal", "mu": 1, "sigma": 2}, stats.norm(1, 2)),
    ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(s=0.5, scale=math.e)),
]
DISCRETE: list[tuple[dict[str, Any], Any]] = [
    ({"min": 3, "max": 9}, stats.randint(3, 10)),
    ({"values": [0, 1, 2, 3]}, stats.randint(0, 4)),
]
QUANTIZED: list[tuple[dict[str, Any], Any]] = [
    ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 2}, stats.uniform(0, 10)),
    ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}, stats.uniform(0, 1)),
    ({"distribution": "q_normal", "mu": 1, "sigma": 2, "q": 0.5}, stats.norm(1, 2)),
    ({"distribution": "q_log_normal", "q": 1}, stats.lognorm(s=1)),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 4}, stats.loguniform(1, 100)),
    ({"distribution": "q_log_uniform", "min": 0, "max": 4, "q": 1}, stats.loguniform(1, math.exp(4))),
]
ODDS = {"values": ["a", "b", "c"], "probabilities": [0.2, 0.5, 0.3]}
SHARES = [0.003, 0.1, 0.251, 0.41, 0.503, 0.77, 0.999]  # between the steps of discrete ones


def named(value: Any) -> str:
    """Distributions of SciPy print their address, which every process of the test run has its own of."""
    return str(value) if isinstance(value, dict) else "scipy"


@pytest.mark.parametrize(("section", "oracle"), CONTINUOUS, ids=named)
def test_quantiles_and_draws_are_those_of_scipy(section: dict[str, Any], oracle: Any) -> None:
    parameter, source = read_parameter("x", section), random.Random(4)
    assert [parameter.at(share) for share in SHARES] == pytest.approx([oracle.ppf(share) for share in SHARES])
    drawn = [parameter.draw(source) for _ in range(2000)]
    assert stats.kstest(drawn, oracle.cdf).pvalue > 0.01


@pytest.mark.parametrize(("section", "oracle"), DISCRETE, ids=named)
def test_whole_numbers_and_choices_are_equally_likely(section: dict[str, Any], oracle: Any) -> None:
    parameter = read_parameter("x", section)
    assert [parameter.at(share) for share in SHARES] == [oracle.ppf(share) for share in SHARES]


@pytest.mark.parametrize(("section", "oracle"), QUANTIZED, ids=named)
def test_quantized_values_are_the_nearest_multiples(section: dict[str, Any], oracle: Any) -> None:
    found = [read_parameter("x", section).at(share) for share in SHARES]
    assert found == pytest.approx([round(oracle.ppf(share) / section["q"]) * section["q"] for share in SHARES])
    assert all(isinstance(value, int) for value in found) == isinstance(section["q"], int)


def test_probabilities_are_kept() -> None:
    parameter, source = read_parameter("x", ODDS), random.Random(0)
    counts = Counter(parameter.draw(source) for _ in range(3000))
    expected = [3000 * odds for odds in ODDS["probabilities"]]
    assert stats.chisquare([counts[name] for name in ODDS["values"]], expected).pvalue > 0.01


@pytest.mark.parametrize("section", [ODDS, *(section for section, _ in [*CONTINUOUS, *DISCRETE, *QUANTIZED])], ids=str)
def test_values_are_those_of_the_engine_that_wandb_runs(section: dict[str, Any]) -> None:
    params = pytest.importorskip("sweeps.params", reason="W&B's engine needs numpy below 2")
    ours, theirs = read_parameter("x", section), params.HyperParameter("x", section)
    assert [ours.at(share) for share in SHARES] == pytest.approx([theirs.ppf(share) for share in SHARES])


def test_what_a_grid_goes_through() -> None:
    assert read_parameter("x", {"value": 3}).options() == [3]
    assert read_parameter("x", {"min": 2, "max": 5}).options() == [2, 3, 4, 5]
    # The last multiple is not part of it, as in W&B's engine.
    assert read_parameter("x", {"distribution": "q_uniform", "min": 0, "max": 10, "q": 4}).options() == [0, 4, 8]
    with pytest.raises(ConfigError, match="a grid needs value, values"):
        read_parameter("x", {"min": 0.0, "max": 1.0}).options()
    with pytest.raises(ConfigError, match="got categorical_w_probabilities"):
        read_parameter("x", ODDS).options()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (3, "expected value, values or a distribution, got 3"),
        ({}, "expected value, values, min and max, or a distribution"),
        ({"min": 0}, "expected value, values, min and max, or a distribution; got min"),
        ({"parameters": {"y": {"value": 1}}}, "nested parameters reach the command as one mapping; write x.KEY"),
        ({"distribution": "uniforn", "min": 0, "max": 1}, "did you mean 'uniform'"),
        ({"distribution": "normal", "sigma": 0}, "expected sigma, q, a and b above 0"),
        ({"min": 2.0, "max": 1.0}, "expected min <= max"),
        ({"min": "1e-5", "max": 1.0}, "write 1.0e-5"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "needs min > 0"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "needs integers"),
        ({"values": []}, "expected a list of at least one value"),
        ({"values": [{"a": 1}]}, "expected numbers, text, true, false, null or lists of them"),
        ({"value": "a\0b"}, "expected numbers, text"),
        ({"values": [1, 2], "probabilities": [1.0]}, "expected 2 probabilities that add up to 1"),
        ({"values": [1], "min": 3}, "categorical takes values; got 'min'"),
    ],
)
def test_a_bad_parameter_is_refused_in_one_line(section: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_parameter("x", section)
    assert words in str(caught.value) and "\n" not in str(caught.value)
