"""What every benchmark owes its users, whatever it asks. A new file in ``benchmarks/`` is tested from birth.

A benchmark that cannot run without the user's data gets a few made-up rows from ``LAYOUTS``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from functools import cache

import pytest

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.types import Prediction, Role, Sample
from tests.benchmarks.official_layouts import LAYOUTS

MAX_SAMPLES = 60


@pytest.fixture(scope="module", params=sorted(BENCHMARKS()))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def make(name: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Benchmark]:
    fields = LAYOUTS[name](tmp_path_factory.mktemp(name)) if name in LAYOUTS else {}
    return lambda **more: BENCHMARKS()[name](**fields, **more)


@pytest.fixture(scope="module")
def benchmark_(make: Callable[..., Benchmark]) -> Benchmark:
    return make()


@pytest.fixture(scope="module")
def samples(benchmark_: Benchmark) -> Sequence[Sample]:
    return benchmark_.load()


def test_ids_are_unique_and_everything_is_the_same_the_second_time(
    make: Callable[..., Benchmark], samples: Sequence[Sample]
) -> None:
    ids = [sample.sample_id for sample in samples]
    assert samples and all(ids) and len(set(ids)) == len(ids)
    again = make().load()
    assert [_without_pictures(sample) for sample in again] == [_without_pictures(sample) for sample in samples]


def _without_pictures(sample: Sample) -> tuple[Sample, int]:
    # Functions that draw need not compare equal.
    return dataclasses.replace(sample, images=()), len(sample.images)


def test_a_limit_takes_the_first_samples(make: Callable[..., Benchmark], samples: Sequence[Sample]) -> None:
    limited = make(limit=3).load()
    assert [sample.sample_id for sample in limited] == [sample.sample_id for sample in samples[:3]]


def test_every_sample_asks_something_in_the_roles_that_pruners_read(samples: Sequence[Sample]) -> None:
    for sample in samples:
        assert sample.prompt.strip()
        assert any(segment.role is Role.QUESTION and segment.text.strip() for segment in sample.segments)
        assert all(segment.role is not Role.ANSWER for segment in sample.segments)
        assert bool(sample.choices) == any(segment.role is Role.OPTIONS for segment in sample.segments)
        for entry in sample.needed:
            assert 0 <= entry.image < len(sample.images)
            assert list(entry.indices) == sorted(set(entry.indices))
            assert not entry.indices or entry.indices[-1] < entry.grid[0] * entry.grid[1]


def test_the_gold_answer_scores_one(benchmark_: Benchmark, samples: Sequence[Sample]) -> None:
    with_answer = [sample for sample in samples if sample.answer is not None]
    assert with_answer
    for sample in with_answer:
        assert sample.answer is not None
        assert benchmark_.parse(sample.answer, sample) == sample.answer
        assert benchmark_.score(sample.answer, sample) == 1.0


def test_a_wrong_answer_and_no_answer_score_zero(benchmark_: Benchmark, samples: Sequence[Sample]) -> None:
    golds = sorted({sample.answer for sample in samples if sample.answer is not None})
    for sample in samples[:MAX_SAMPLES]:
        if sample.answer is None:
            continue
        assert benchmark_.score(None, sample) == 0.0
        scores = [benchmark_.score(benchmark_.parse(gold, sample), sample) for gold in golds if gold != sample.answer]
        assert 0.0 in scores


def test_a_sample_without_an_answer_has_no_score(benchmark_: Benchmark, samples: Sequence[Sample]) -> None:
    unanswered = [sample for sample in samples if sample.answer is None]
    if not unanswered:
        pytest.skip("this benchmark knows every answer")
    for sample in unanswered:
        for output in ("", "A", "yes"):
            assert benchmark_.score(benchmark_.parse(output, sample), sample) is None


@cache
def _random_outputs(num: int = 1000) -> tuple[str, ...]:
    """Noise, near-answers, and the characters that break parsers."""
    generator = random.Random(0)
    pieces = [
        "A",
        "B.",
        "(C)",
        "The answer is ",
        "The correct answer is (",
        "yes",
        "No",
        "n't",
        ".",
        ",",
        "\n",
        "\t",
        "\0",
        "\x1b[31m",
        "\u202e",
        "\ufeff",
        "\ud800",
        "\U0001f600",
        "e\u0301",
        "\u0130",
        "(",
        ")",
        "[",
        "\\",
        "<image>",
        "{}",
        "%s",
        "-1",
        "1e999",
        "\u0661",
        " " * 50,
        "(" * 200,
        "red circle",
    ]
    outputs = ["", *pieces]
    while len(outputs) < num:
        if generator.random() < 0.5:
            outputs.append("".join(generator.choices(pieces, k=generator.randint(1, 12))))
        else:
            outputs.append("".join(chr(generator.randrange(0x110000)) for _ in range(generator.randint(1, 40))))
    return tuple(outputs)


def test_parsing_never_raises_and_scores_stay_in_range(benchmark_: Benchmark, samples: Sequence[Sample]) -> None:
    chosen = random.Random(1).sample(list(samples), min(8, len(samples)))
    for index, output in enumerate(_random_outputs()):
        sample = chosen[index % len(chosen)]
        parsed = benchmark_.parse(output, sample)
        assert parsed is None or isinstance(parsed, str)
        score = benchmark_.score(parsed, sample)
        assert score is None or 0.0 <= score <= 1.0


def test_aggregates_are_named_finite_numbers(benchmark_: Benchmark, samples: Sequence[Sample]) -> None:
    predictions = [
        Prediction(
            sample.sample_id,
            "baseline",
            sample.group_id,
            sample.prompt,
            sample.answer,
            output=sample.answer or "",
            parsed=sample.answer,
            score=benchmark_.score(sample.answer, sample),
            num_visual_tokens=4,
            num_kept=4,
            kind=sample.kind,
        )
        for sample in samples
    ]
    silent = [dataclasses.replace(entry, output="", parsed=None, score=0.0) for entry in predictions]
    failed = [dataclasses.replace(entry, output="", parsed=None, score=None, error="broken") for entry in predictions]
    for records in (predictions, silent, failed, []):
        for key, value in benchmark_.aggregate(records).items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
            assert math.isfinite(value)


def test_protocol_and_identity_are_there_and_can_be_written_as_json(benchmark_: Benchmark) -> None:
    assert isinstance(benchmark_.protocol, str) and benchmark_.protocol
    assert benchmark_.max_new_tokens >= 1
    identity = dict(benchmark_.identity())
    assert identity["protocol"] == benchmark_.protocol
    assert json.loads(json.dumps(identity)) == identity


def test_configuration_is_a_dataclass_with_a_default_for_every_field(name: str) -> None:
    assert dataclasses.is_dataclass(BENCHMARKS()[name])
    for entry in dataclasses.fields(BENCHMARKS()[name]):
        assert entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
