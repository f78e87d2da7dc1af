from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from lit_simignore.metrics.compare import compare
from lit_simignore.metrics.statistics import cluster_bootstrap, mcnemar_exact
from lit_simignore.types import Prediction, UserError


def _record(sample_id: str, method: str, score: float | None, **fields: object) -> Prediction:
    values = {"group_id": "", "prompt": "?", "answer": "A", "output": "A" if score else "B", **fields}
    return Prediction(sample_id=sample_id, method=method, score=score, **values)  # type: ignore[arg-type]


def _run(seed: int = 0, num: int = 200) -> list[Prediction]:
    generator = random.Random(seed)
    records = []
    for index in range(num):
        for method, chance in (("baseline", 0.5), ("simignore", 0.7)):
            score = float(generator.random() < chance)
            records.append(_record(f"s{index:03d}", method, score, group_id=f"g{index // 3}", kind="k"))
    return records


def test_a_comparison_agrees_with_counting_by_hand() -> None:
    records = _run()
    scores: dict[str, dict[str, float]] = {"baseline": {}, "simignore": {}}
    for record in records:
        assert record.score is not None
        scores[record.method][record.sample_id] = record.score
    a, b = scores["baseline"], scores["simignore"]
    fixed, broken = (sum(sign * (b[i] - a[i]) > 0 for i in a) for sign in (1, -1))
    found = compare(records, records)
    assert (found.method_a, found.method_b, found.num_pairs) == ("baseline", "simignore", 200)
    assert (found.fixed, found.broken, found.p_value) == (fixed, broken, mcnemar_exact(fixed, broken))
    assert found.score_a == pytest.approx(sum(a.values()) / 200)
    assert found.num_groups == 67
    groups = [f"g{index // 3}" for index in range(200)]
    assert found.difference == cluster_bootstrap(list(a.values()), list(b.values()), groups)
    assert [flip.sample_id for flip in found.flips] == sorted(i for i in a if a[i] != b[i])
    assert sum(flip.fixed for flip in found.flips) == fixed
    assert found.same_output == 200 - fixed - broken


def test_folders_files_and_records_give_the_same_comparison(tmp_path: Path) -> None:
    records = _run(num=30)
    for number, part in enumerate((records[:25], records[25:])):
        text = "".join(json.dumps(asdict(record)) + "\n" for record in part)
        (tmp_path / f"predictions-{number}.jsonl").write_text(text)
    whole = tmp_path / "all.jsonl"
    whole.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    assert compare(tmp_path, str(tmp_path)) == compare(whole, whole) == compare(records, iter(records))


def test_pairing_is_by_id_and_leaves_out_are_counted() -> None:
    run_a = [
        _record("1", "a", 0.0),
        _record("2", "a", 1.0),
        _record("only a", "a", 1.0),
        _record("failed in b", "a", 1.0),
        _record("no gold", "a", None, answer=None),
        _record("1", "a", 0.0, output="else"),
    ]
    run_b = [
        _record("2", "b", 1.0),
        _record("1", "b", 1.0),
        _record("failed in b", "b", None, error="bad file"),
        _record("no gold", "b", None, answer=None),
        _record("only b", "b", 1.0),
        _record("only b 2", "b", 1.0),
    ]
    found = compare(run_a, run_b)
    assert (found.num_pairs, found.only_a, found.only_b, found.unscored) == (2, 1, 2, 2)
    assert (found.duplicates, found.conflicts) == (1, 1)
    text = str(found)
    assert "1 only in a, 2 only in b, 2 without a score, 1 duplicate records (1 with another output)" in text


def test_the_text_says_what_was_found() -> None:
    run_a = [_record(str(i), "baseline", 0.0) for i in range(8)]
    run_b = [_record(str(i), "simignore", 1.0) for i in range(8)]
    assert str(compare(run_a, run_b)).splitlines() == [
        "simignore against baseline: 8 paired samples in 8 groups",
        "  score     0.00 % -> 100.00 % (+100.00 points, 95% interval +100.00 to +100.00)",
        "  flips     8 fixed, 0 broken, exact McNemar p = 0.0078",
        "  outputs   0 of 8 identical",
    ]


def test_one_group_gives_no_interval() -> None:
    run = [_record(str(i), m, 1.0, group_id="g") for i in range(3) for m in ("baseline", "b")]
    assert compare(run, run).difference == (0.0, None, None)
    assert "no interval" in str(compare(run, run))


def test_methods_are_chosen_only_when_there_is_one_way() -> None:
    run = [_record("1", method, 1.0) for method in ("baseline", "simignore", "random")]
    assert compare(run, run, method_b="random").method_b == "random"
    with pytest.raises(UserError, match="method_b=.*baseline, simignore, random"):
        compare(run, run)
    with pytest.raises(UserError, match="did you mean 'simignore'"):
        compare(run, run, method_b="simignor")
    with pytest.raises(UserError, match="method_a="):
        compare(run[1:], run, method_b="random")


def test_runs_on_different_data_are_refused() -> None:
    with pytest.raises(UserError, match="right answer of 1 samples"):
        compare([_record("1", "a", 1.0)], [_record("1", "b", 1.0, answer="B")])
    with pytest.raises(UserError, match="0 in common"):
        compare([_record("1", "a", 1.0)], [_record("2", "b", 1.0)])
