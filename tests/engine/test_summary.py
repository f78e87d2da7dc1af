"""The numbers of a run against counting by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lit_simignore.engine.summary import summarize
from lit_simignore.metrics.records import Run, read_run
from lit_simignore.metrics.statistics import wilson_interval
from lit_simignore.types import Method, Prediction, Role, Sample, Segment
from tests.engine.toys import BASELINE, STRIDE, Toy

RANDOM = Method("random", (object(),))
METHODS = (BASELINE, STRIDE, RANDOM)
SCORES = {  # per method: None is an error
    "baseline": (1, 1, 0, 0, 1, None, 1, 0),
    "stride": (1, 0, 1, 0, 1, 1, 0, None),
    "random": (0, 0, 0, 0, 0, 1, 0, 0),
}


def samples(groups: int = 8) -> list[Sample]:
    kind = ("even", "odd")
    return [
        Sample(f"s{i}", (Segment("?", Role.QUESTION),), group_id=f"g{i % groups}", answer="A", kind=kind[i % 2])
        for i in range(8)
    ]


def record(sample: Sample, method: str, score: int | None) -> Prediction:
    return Prediction(
        sample.sample_id, method, sample.group_id, sample.prompt, sample.answer,
        output="same" if sample.sample_id == "s0" else f"{method} {score}",
        parsed=None if sample.sample_id == "s3" else "x",
        score=score, error="broken" if score is None else None, kind=sample.kind,
        needed_recall=0.25 if method == "stride" else None,
        needed_carried=0.75 if method == "stride" else None,
        extra={"budget": {"total": 16, "input": 4, "final": 2 + int(sample.sample_id[1:]), "prefill_tflops": 0.5}},
    )  # fmt: skip


def records(groups: int = 8) -> list[Prediction]:
    return [record(s, method, scores[i]) for method, scores in SCORES.items() for i, s in enumerate(samples(groups))]


def summary_of(run: Run, methods: tuple[Method, ...] = METHODS, groups: int = 8, **options: Any) -> dict[str, Any]:
    return summarize(run, samples(groups), Toy(), methods, about={"name": "x"}, **options)


def test_every_number_is_the_one_counted_by_hand() -> None:
    found = summary_of(read_run(records()))
    baseline, stride, other = found["methods"]
    assert found["run"] == {"name": "x", "num_samples": 8, "complete": True}
    assert (baseline["n"], baseline["errors"], baseline["unparsed"], baseline["accuracy"]) == (7, 1, 1, 4 / 7)
    assert (baseline["ci_low"], baseline["ci_high"]) == wilson_interval(4, 7)
    assert [baseline[key] for key in ("p_value", "p_holm", "fixed", "broken", "same_output", "delta")] == [None] * 6
    # stride and baseline share s0 to s4 and s6: it fixes s2, breaks s1 and s6, and only on s0 both say the same
    assert (stride["fixed"], stride["broken"], stride["p_value"]) == (1, 2, 1.0)
    assert stride["same_output"] == 1
    assert stride["delta"] == pytest.approx(3 / 6 - 4 / 6)
    assert stride["needed_recall"] == 0.25
    assert (stride["needed_carried"], other["needed_carried"]) == (0.75, None)
    # without its one error, s7: (2 + ... + 8) / 7
    assert stride["budget"]["final"] == 5.0
    assert stride["budget"]["flops"] is None
    assert stride["by_kind"] == {"even": {"n": 4, "accuracy": 0.75}, "odd": {"n": 3, "accuracy": 1 / 3}}
    assert other["by_kind"]["even"] == {"n": 4, "accuracy": 0.0}
    # random breaks four of the seven shared samples: p = 2 / 2**4; Holm doubles the smaller of two
    assert (other["fixed"], other["broken"], other["p_value"], other["p_holm"]) == (0, 4, 0.125, 0.25)
    assert stride["p_holm"] == 1.0
    assert stride["extra"]["mean_length"] == pytest.approx((4 + 6 * len("stride 0")) / 7)


def test_the_order_of_the_records_does_not_matter() -> None:
    found = records()
    expected = summary_of(read_run(found))
    for seed in range(3):
        random.Random(seed).shuffle(found)
        assert summary_of(read_run(found)) == expected


def test_samples_of_one_group_widen_the_interval() -> None:
    alone, grouped = (summary_of(read_run(records(groups)), groups=groups) for groups in (8, 2))
    by_group = grouped["methods"][1]
    assert by_group["accuracy"] == alone["methods"][1]["accuracy"]
    assert (by_group["ci_low"], by_group["ci_high"]) != (alone["methods"][1]["ci_low"], alone["methods"][1]["ci_high"])


def test_no_spread_between_groups_is_no_certainty() -> None:
    every = [record(sample, "baseline", 1) for sample in samples(2)]
    (row,) = summary_of(read_run(every), (BASELINE,), groups=2)["methods"]
    assert (row["accuracy"], row["ci_low"], row["ci_high"]) == (1.0, *wilson_interval(2, 2))


def test_an_unfinished_run_says_so() -> None:
    found = summary_of(read_run(records()[:-1]))
    assert found["run"]["complete"] is False
    empty = summary_of(Run())
    assert empty["run"]["complete"] is False
    row = empty["methods"][1]
    assert (row["n"], row["accuracy"], row["ci_low"], row["p_value"], row["extra"]) == (0, None, None, None, {})


def test_without_a_baseline_nothing_is_compared() -> None:
    found = summary_of(read_run(records()), (STRIDE, RANDOM))
    assert [row["p_value"] for row in found["methods"]] == [None, None]
    assert [row["accuracy"] for row in found["methods"]] == [4 / 7, 1 / 8]


def test_efficiency_is_joined_by_name_without_infinities() -> None:
    found = summary_of(read_run(records()), efficiency={"stride": {"prefill_ms": 2.0, "pruner_ms": float("nan")}})
    assert [row["efficiency"] for row in found["methods"]] == [None, {"prefill_ms": 2.0, "pruner_ms": None}, None]
