"""The released POPE questions (COCO val2014): their counts, and answers whose scores have a closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.benchmarks._yes_no import parse_pope_official, parse_pope_opera, parse_yes_no
from lit_simignore.benchmarks.pope import POPE
from lit_simignore.metrics.hallucination import count_yes_no, yes_no_scores
from lit_simignore.metrics.records import read_json_lines
from lit_simignore.types import Prediction

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "pope"
SPLITS = {"random": 2910, "popular": 3000, "adversarial": 3000}
pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference questions (shared/reference) are not here"),
    pytest.mark.parametrize("split", SPLITS),
]
every_parser = pytest.mark.parametrize("parse", [parse_pope_official, parse_pope_opera, parse_yes_no])


def _rows(split: str) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(FOLDER / f"coco_pope_{split}.json").rows]


def test_rows_are_as_released(split: str) -> None:
    rows = _rows(split)
    assert len(rows) == SPLITS[split]
    assert sum(row["label"] == "yes" for row in rows) == 1500
    assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["image"] for row in rows}) == 500
    assert sum("imange" in row["text"] for row in rows) == {"random": 144, "popular": 44, "adversarial": 58}[split]


@every_parser
def test_always_yes_and_always_no_have_closed_forms(split: str, parse: Callable[[str], str | None]) -> None:
    labels, total = [row["label"] for row in _rows(split)], SPLITS[split]
    base = 1500 / total
    yes = yes_no_scores(count_yes_no((parse("Yes, it is."), label) for label in labels))
    assert yes == pytest.approx((base, base, 1.0, 2 * base / (base + 1), 1.0))
    no = yes_no_scores(count_yes_no((parse("No, there is not."), label) for label in labels))
    assert no == pytest.approx((1 - base, 0.0, 0.0, 0.0, 0.0))


@every_parser
def test_scripted_answers_have_closed_forms(split: str, parse: Callable[[str], str | None]) -> None:
    """Right everywhere but on every third "yes" row and every fifth "no" row."""
    rows, total, num_no = _rows(split), SPLITS[split], SPLITS[split] - 1500
    seen = {"yes": 0, "no": 0}
    pairs = []
    for row in rows:
        seen[row["label"]] += 1
        wrong = seen[row["label"]] % {"yes": 3, "no": 5}[row["label"]] == 0
        said_yes = (row["label"] == "yes") != wrong
        pairs.append((parse("Yes." if said_yes else "No."), row["label"]))
    true_yes, false_yes = 1000, num_no // 5
    precision, recall = true_yes / (true_yes + false_yes), 2 / 3
    assert yes_no_scores(count_yes_no(pairs)) == pytest.approx(
        (
            (true_yes + num_no - false_yes) / total,
            precision,
            recall,
            2 * precision * recall / (precision + recall),
            (true_yes + false_yes) / total,
        )
    )


@pytest.mark.parametrize("protocol", ["llava", "pope", "opera", "lmms-eval", "strict"])
def test_the_benchmark_itself_gives_the_closed_forms(split: str, protocol: str) -> None:
    """The same scripted answers through ``load``, ``parse``, ``score`` and ``aggregate`` of every protocol."""
    benchmark = POPE(path=str(FOLDER), splits=[split], protocol=protocol)
    samples = benchmark.load()
    assert (len(samples), len({sample.group_id for sample in samples})) == (SPLITS[split], 500)
    seen = {"yes": 0, "no": 0}
    records = []
    for sample in samples:
        gold = str(sample.answer)
        seen[gold] += 1
        wrong = seen[gold] % {"yes": 3, "no": 5}[gold] == 0
        output = "Yes" if (gold == "yes") != wrong else "No"
        parsed = benchmark.parse(output, sample)
        score = benchmark.score(parsed, sample)
        records.append(Prediction(sample.sample_id, "m", "", "", gold, output, parsed, score, kind=sample.kind))
    num_no = SPLITS[split] - 1500
    true_yes, false_yes = 1000, num_no // 5
    precision, recall = true_yes / (true_yes + false_yes), 2 / 3
    found = benchmark.aggregate(records)
    assert found[f"{split}_accuracy"] == pytest.approx((true_yes + num_no - false_yes) / SPLITS[split])
    assert found[f"{split}_precision"] == pytest.approx(precision)
    assert found[f"{split}_recall"] == pytest.approx(recall)
    assert found["mean_f1"] == found[f"{split}_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found[f"{split}_yes_ratio"] == pytest.approx((true_yes + false_yes) / SPLITS[split])
    assert found["mean_accuracy"] == pytest.approx(sum(record.score or 0 for record in records) / SPLITS[split])
