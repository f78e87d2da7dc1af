"""The bundled benchmark: prompts, answers, needed patches, scores."""

from collections import Counter

import numpy as np
import pytest

from lit_simignore.benchmarks.shapesqa import TASKS, ShapesQA
from lit_simignore.shapes.scenes import PATCHES_PER_SIDE
from lit_simignore.types import Prediction, Role, UserError


@pytest.fixture(scope="module")
def samples():
    return ShapesQA(tasks=list(TASKS), num_scenes=30).load()


def test_a_limit_takes_the_first_samples_of_the_same_order(samples):
    few = ShapesQA(tasks=list(TASKS), num_scenes=30, limit=17).load()
    assert [s.sample_id for s in few] == [s.sample_id for s in samples[:17]]


def test_more_scenes_leave_the_first_ones_as_they_are():
    few, many = ShapesQA(num_scenes=3).load(), ShapesQA(num_scenes=6).load()
    assert [(s.sample_id, s.prompt, s.answer) for s in few] == [
        (s.sample_id, s.prompt, s.answer) for s in many[: len(few)]
    ]


def test_the_picture_of_a_sample_is_the_same_every_time(samples):
    for sample in samples[:4]:
        first, second = (np.asarray(sample.images[0]()) for _ in range(2))
        assert np.array_equal(first, second)


def test_existence_is_balanced_over_answers_and_negatives(samples):
    asked = Counter((s.kind, s.answer) for s in samples if s.kind.startswith("existence"))
    assert set(asked.values()) == {10} and len(asked) == 6


def test_choice_prompts_have_the_form_of_scienceqa(samples):
    choice = [s for s in samples if s.choices]
    for sample in choice:
        assert [segment.role for segment in sample.segments] == [
            Role.CONTEXT,
            Role.QUESTION,
            Role.OPTIONS,
            Role.TEMPLATE,
        ]
        assert f"({sample.answer}) {sample.choices['ABCDE'.index(sample.answer)]}" in sample.prompt


def test_needed_patches_show_the_objects_that_the_answer_names(samples):
    known = [s for s in samples if s.needed]
    assert len(known) > len(samples) // 2
    for sample in known:
        (needed,) = sample.needed
        assert needed.grid == (PATCHES_PER_SIDE, PATCHES_PER_SIDE)
        assert (
            list(needed.indices) == sorted(set(needed.indices)) and 0 <= needed.indices[0] <= needed.indices[-1] < 144
        )
    for sample in samples:
        if sample.kind.startswith("existence"):
            assert bool(sample.needed) == (sample.answer == "yes")


def test_a_caption_is_right_when_it_invents_nothing():
    benchmark = ShapesQA(tasks=["caption"], num_scenes=1)
    (sample,) = benchmark.load()
    first = sample.answer.split(",")[0]
    assert benchmark.score(benchmark.parse(f"{first}.", sample), sample) == 1.0
    absent = next(f"{c} {s}" for c in ("red", "blue") for s in ("star", "ring") if f"{c} {s}" not in sample.answer)
    assert benchmark.score(benchmark.parse(f"{first}, {absent}.", sample), sample) == 0.0


def test_aggregate_counts_hallucinated_objects_by_hand():
    def record(output, answer):
        return Prediction(
            sample_id=output, method="m", group_id="g", prompt="", answer=answer, output=output, kind="crowded-caption"
        )

    found = ShapesQA().aggregate(
        [record("red star, blue ring.", "red star, red ring."), record("red ring.", "red ring, blue ring.")]
    )
    assert found["crowded_caption_chair_i"] == pytest.approx(1 / 3)
    assert found["crowded_caption_chair_s"] == pytest.approx(1 / 2)
    assert found["crowded_caption_recall"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("fields", [{"tasks": ["colour"]}, {"tasks": []}, {"num_scenes": 0}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(UserError, match="benchmark"):
        ShapesQA(**fields)
