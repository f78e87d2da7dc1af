"""The shells hold no maths: whatever way the data is split over batches, they say what the pure functions say."""

from __future__ import annotations

import math

import pytest

from lit_simignore.metrics.accuracy import accuracy
from lit_simignore.metrics.hallucination import CaptionObjects, chair_scores, count_chair, count_yes_no, yes_no_scores
from lit_simignore.metrics.modules import Chair, MeanScore, YesNo


def test_mean_score_over_batches_is_the_accuracy() -> None:
    scores = [1.0, None, 0.0, 0.5, 1.0]
    metric = MeanScore()
    metric.update(scores[:2])
    metric.update(scores[2:])
    assert float(metric.compute()) == pytest.approx(accuracy(scores).accuracy)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_mean_score_of_nothing_is_nan() -> None:
    assert math.isnan(float(MeanScore().compute()))


def test_yes_no_over_batches_is_the_pure_function() -> None:
    pairs = [("yes", "yes"), ("no", "yes"), (None, "no"), ("yes", "no"), ("no", "no")]
    metric = YesNo()
    metric.update(pairs[:3])
    metric.update(pairs[3:])
    assert metric.compute() == yes_no_scores(count_yes_no(pairs))._asdict()


def test_chair_over_batches_is_the_pure_function() -> None:
    captions = [CaptionObjects(["dog", "cat"], {"dog"}, 3), CaptionObjects(["cup"], {"cup", "table"}, 4)]
    metric = Chair()
    metric.update(captions[:1])
    metric.update(captions[1:])
    assert metric.compute() == chair_scores(count_chair(captions))._asdict()
