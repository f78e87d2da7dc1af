"""Every answer is checked against a naive reading of the scene."""

import numpy as np
import pytest

from lit_simignore.shapes import questions as q
from lit_simignore.shapes.scenes import draw_scene, frequency
from lit_simignore.shapes.vocabulary import COLOR_NAMES, SHAPE_NAMES, object_name

SCENES = [draw_scene(np.random.default_rng(seed), "test") for seed in range(120)]


def listing(scene):
    """(colour, shape, row, column) of every object, in words."""
    return [
        (COLOR_NAMES[p // 8], SHAPE_NAMES[p % 8], int(r), int(c))
        for p, r, c in zip(scene.pairs, scene.rows, scene.columns, strict=True)
    ]


def naive_answer(text: str, scene) -> str:
    objects = listing(scene)
    words = text.rstrip("?").split()
    if any(d in text for d in ("left of", "right of", "above", "below")):
        return naive_hop(text, words, objects)
    if text.startswith("What color"):
        (found,) = [o for o in objects if o[1] == words[-1]]
        return found[0]
    if text.startswith("What shape"):
        (found,) = [o for o in objects if o[0] == words[-2]]
        return found[1]
    if text.startswith("Where"):
        (found,) = [o for o in objects if o[:2] == (words[-2], words[-1])]
        return ("top" if found[2] < 2 else "bottom") + (" left" if found[3] < 2 else " right")
    if text.startswith("How many"):
        return str(sum(words[2] in o[:2] for o in objects))
    if text.startswith("Are there more"):
        first, second = words[3], words[6]
        a, b = (sum(o[0] == x for o in objects) for x in (first, second))
        return "same" if a == b else first if a > b else second
    raise AssertionError(text)


def naive_hop(text, words, objects):
    (anchor,) = [o for o in objects if o[:2] == (words[-2], words[-1])]
    row, column = anchor[2:]
    beside = {
        "left of": [o for o in objects if o[2] == row and o[3] < column],
        "right of": [o for o in objects if o[2] == row and o[3] > column],
        "above": [o for o in objects if o[3] == column and o[2] < row],
        "below": [o for o in objects if o[3] == column and o[2] > row],
    }[next(d for d in ("left of", "right of", "above", "below") if d in text)]
    nearest = min(beside, key=lambda o: abs(o[2] - row) + abs(o[3] - column))
    if text.startswith("What color"):
        return nearest[0]
    return nearest[1] if text.startswith("What shape") else f"{nearest[0]} {nearest[1]}"


@pytest.mark.parametrize("kind", q.CHOICE_KINDS)
def test_answers_agree_with_a_naive_reading_of_the_scene(kind):
    rng, asked = np.random.default_rng(7), 0
    for scene in SCENES:
        question = q.CHOICE_KINDS[kind](rng, scene)
        if question is None:
            continue
        asked += 1
        assert question.answer == naive_answer(question.text, scene), question.text
        assert question.answer not in question.distractors
        assert all(0 <= i < len(scene.pairs) for i in question.objects)
    assert asked > 40


@pytest.mark.parametrize("kind", q.CHOICE_KINDS)
def test_the_letter_points_at_the_right_option_and_all_places_occur(kind):
    rng, letters = np.random.default_rng(3), set()
    for scene in SCENES:
        question = q.CHOICE_KINDS[kind](rng, scene)
        if question is None:
            continue
        choice = q.with_options(rng, question)
        assert choice.options["ABCDE".index(choice.letter)] == question.answer
        assert len(set(choice.options)) == len(choice.options) and 2 <= len(choice.options) <= 5
        letters.add(choice.letter)
    assert {"A", "B", "C"} <= letters


def test_existence_questions_tell_the_truth_and_negatives_are_of_their_kind():
    rng = np.random.default_rng(0)
    ranked = np.argsort(-frequency(), kind="stable")
    for scene in SCENES:
        present = {f"{c} {s}" for c, s, *_ in listing(scene)}
        assert q.existence(rng, scene, None).text[len("Is there a ") : -len(" in the image?")] in present
        for how in q.NEGATIVES:
            pair = q.absent_pair(rng, scene, how)
            assert object_name(pair) not in present
            if how == "popular":
                absent = [p for p in ranked if p not in set(scene.pairs)]
                assert pair in absent[: q.NUM_RANKED]


def test_a_caption_lists_every_object_in_reading_order():
    for scene in SCENES[:20]:
        expected = [f"{c} {s}" for c, s, *_ in sorted(listing(scene), key=lambda o: (o[2], o[3]))]
        assert q.caption(scene).answer == ", ".join(expected) + "."
