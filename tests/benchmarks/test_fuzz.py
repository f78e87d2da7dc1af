"""Whatever a model writes, every parser of every protocol reads it without an exception."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.benchmarks._sourced import SourcedBenchmark
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.types import Sample
from tests.benchmarks.official_layouts import LAYOUTS

PIECES = (
    "A", "b", "(C)", "D.", "E:", "[B]", "**A**", "The answer is ", "Option ", "answer: ", "The correct answer is (",
    "yes", "Yes", "No", "no", "not", "n't", "isn\u2019t", "None", "y", "two", "the", "dont", "'s", "'ve", "dogs",
    "hot ", "toilet ", "seat", "baby ", "red car", ".", ",", "?", "-", "/", ";", "'", '"', "~", "#", "\n", "\r", "\t",
    "\0", "\x1b[31m", "\u202e", "\ufeff", "\ud800", "\U0001f600", "e\u0301", "\u0130", "\u0661", "\u00df", "(", ")",
    "[", "\\", "<image>", "{}", "%s", "{0}", "-1", "1e999", "1,000", "3.", " " * 50, "(" * 300, "no " * 100,
)  # fmt: skip


@cache
def outputs(num: int) -> tuple[str, ...]:
    """Noise, and near-answers put together from pieces that break parsers."""
    generator = random.Random(num)
    return tuple(
        "".join(generator.choices(PIECES, k=generator.randint(0, 12)))
        if generator.random() < 0.6
        else "".join(chr(generator.randrange(0x110000)) for _ in range(generator.randint(0, 40)))
        for _ in range(num)
    )


def _check(benchmark: Benchmark, samples: Sequence[Sample], num: int) -> None:
    for index, output in enumerate(outputs(num)):
        sample = samples[index % len(samples)]
        parsed = benchmark.parse(output, sample)
        assert parsed is None or isinstance(parsed, str)
        score = benchmark.score(parsed, sample)
        assert score is None or 0.0 <= score <= 1.0


def _protocols() -> list[tuple[str, str]]:
    found = []
    for name, cls in BENCHMARKS().items():
        known = cls.protocols if issubclass(cls, SourcedBenchmark) else ("",)
        found += [(name, protocol) for protocol in known]
    return found


def _loaded(name: str, protocol: str, folder: Path) -> tuple[Benchmark, list[Sample]]:
    fields = LAYOUTS[name](folder) if name in LAYOUTS else {"limit": 12}
    benchmark = BENCHMARKS()[name](**fields, **({"protocol": protocol} if protocol else {}))
    return benchmark, random.Random(0).sample(samples := list(benchmark.load()), min(12, len(samples)))


@pytest.mark.parametrize(("name", "protocol"), _protocols())
def test_a_sample_of_random_outputs_is_read(name: str, protocol: str, tmp_path: Path) -> None:
    _check(*_loaded(name, protocol, tmp_path), num=300)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "protocol"), _protocols())
def test_a_hundred_thousand_random_outputs_are_read(name: str, protocol: str, tmp_path: Path) -> None:
    _check(*_loaded(name, protocol, tmp_path), num=100_000)
