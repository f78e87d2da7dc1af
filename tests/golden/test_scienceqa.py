"""The released LLaVA-1.5-7B predictions on ScienceQA-IMG must give Table 1 of arXiv:2412.09817, and its pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.benchmarks.scienceqa import ScienceQA
from lit_simignore.metrics.compare import Comparison, compare
from lit_simignore.metrics.records import read_json_lines
from lit_simignore.metrics.statistics import wilson_interval
from lit_simignore.types import Prediction, Sample

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "scienceqa"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference predictions (shared/reference) are not here")


def _predictions(method: str) -> list[Prediction]:
    benchmark, predictions = ScienceQA(), []
    for _, row in read_json_lines(FOLDER / f"sqa_image_7b_{method}.jsonl").rows:
        choices = ("?",) * row["num_choices"]
        sample = Sample(row["id"], (), choices=choices, answer=row["answer"], kind=f"{len(choices)} options")
        parsed = benchmark.parse(row["output"], sample)
        score = benchmark.score(parsed, sample)
        predictions.append(
            Prediction(row["id"], method, "", "", sample.answer, row["output"], parsed, score, 576, kind=sample.kind)
        )
    return predictions


@pytest.mark.parametrize(
    ("method", "percent", "right", "unparsed"), [("baseline", 65.1463, 1314, 11), ("simignore", 68.0218, 1372, 16)]
)
def test_the_released_predictions_give_table_1(method: str, percent: float, right: int, unparsed: int) -> None:
    predictions = _predictions(method)
    assert len(predictions) == 2017
    assert sum(entry.score or 0 for entry in predictions) == right
    assert sum(entry.parsed is None for entry in predictions) == unparsed
    for images_only in (True, False):
        accuracy = ScienceQA(images_only=images_only).aggregate(predictions)["img_accuracy"]
        assert round(100 * accuracy, 4) == percent
    low, high = wilson_interval(right, 2017)
    assert 0.040 < high - low < 0.042


@pytest.mark.parametrize(
    ("method", "by_options"),
    [
        ("baseline", {2: (485, 677), 3: (304, 532), 4: (514, 770), 5: (11, 38)}),
        ("simignore", {2: (506, 677), 3: (306, 532), 4: (551, 770), 5: (9, 38)}),
    ],
)
def test_the_break_down_by_number_of_options_is_the_released_one(
    method: str, by_options: dict[int, tuple[int, int]]
) -> None:
    predictions = _predictions(method)
    for num_options, (right, total) in by_options.items():
        scores = [entry.score or 0 for entry in predictions if entry.kind == f"{num_options} options"]
        assert (sum(scores), len(scores)) == (right, total)


def test_the_paired_comparison_is_the_released_one() -> None:
    found: Comparison = compare(_predictions("baseline"), _predictions("simignore"))
    assert (found.num_pairs, found.fixed, found.broken, found.same_output) == (2017, 149, 91, 1722)
    assert f"{found.p_value:.1e}" == "2.2e-04"
    assert 100 * found.difference.value == pytest.approx(2.8756, abs=1e-4)
    assert found.difference.low is not None and found.difference.low > 0
    assert len(found.flips) == 240
