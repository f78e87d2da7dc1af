"""Questions about a scene, with their answers and the objects that the answer depends on.

A kind is one function ``(rng, scene) -> Question | None``; ``None`` means that this scene does not allow that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_simignore.shapes.scenes import CELLS_PER_SIDE, Scene, co_occurrence, frequency
from lit_simignore.shapes.vocabulary import (
    COLOR_NAMES,
    DIRECTIONS,
    LETTERS,
    NUM_PAIRS,
    POSITIONS,
    SHAPE_NAMES,
    object_name,
)

NUM_RANKED = 6
"""Popular and adversarial negatives are drawn from this many top-ranked absent pairs."""
MAX_OPTIONS = len(LETTERS)


@dataclass(frozen=True, slots=True)
class Question:
    """A question without its options laid out.

    Args:
        text: the question sentence.
        answer: the right answer in words.
        objects: indices of the scene's objects that the answer depends on; empty when it depends on all or none.
        distractors: wrong answers, hardest first; empty for yes/no questions and captions.
    """

    text: str
    answer: str
    objects: tuple[int, ...] = ()
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with its options in their final order."""

    question: Question
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        return LETTERS[self.options.index(self.question.answer)]


def with_options(rng: np.random.Generator, question: Question, count: int | None = None) -> Choice:
    """Lay out 2 to 5 options (or ``count``), the right one at a random place."""
    wanted = count or int(rng.integers(2, MAX_OPTIONS + 1))
    wrong = list(question.distractors)[: wanted - 1]
    options = [*wrong, question.answer]
    return Choice(question, tuple(options[i] for i in rng.permutation(len(options))))


def hard_first(rng: np.random.Generator, present: Sequence[str], every: Sequence[str], answer: str) -> tuple[str, ...]:
    """Wrong answers: one to four that are in the scene, then others, mixed so that absence gives nothing away."""
    near = [x for x in dict.fromkeys(present) if x != answer]
    far = [x for x in dict.fromkeys(every) if x != answer and x not in near]
    rng.shuffle(near)
    rng.shuffle(far)
    hard = int(rng.integers(1, MAX_OPTIONS))
    return tuple((near[:hard] + far + near[hard:])[: MAX_OPTIONS - 1])


def _only(values: NDArray[np.int64]) -> list[int]:
    """Indices of objects whose value no other object shares."""
    return [i for i in range(len(values)) if (values == values[i]).sum() == 1]


def _one(rng: np.random.Generator, items: Sequence[int]) -> int:
    return int(items[int(rng.integers(len(items)))])


# ---------------------------------------------------------------- multiple choice


def color(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Colour of the only object of a shape."""
    candidates = _only(scene.shapes)
    if not candidates:
        return None
    i = _one(rng, candidates)
    answer = COLOR_NAMES[scene.colors[i]]
    wrong = hard_first(rng, [COLOR_NAMES[c] for c in scene.colors], COLOR_NAMES, answer)
    return Question(f"What color is the {SHAPE_NAMES[scene.shapes[i]]}?", answer, (i,), wrong)


def shape(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Shape of the only object of a colour."""
    candidates = _only(scene.colors)
    if not candidates:
        return None
    i = _one(rng, candidates)
    answer = SHAPE_NAMES[scene.shapes[i]]
    wrong = hard_first(rng, [SHAPE_NAMES[s] for s in scene.shapes], SHAPE_NAMES, answer)
    return Question(f"What shape is the {COLOR_NAMES[scene.colors[i]]} object?", answer, (i,), wrong)


def position(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Quarter of the image that an object lies in."""
    candidates = _only(scene.pairs)
    if not candidates:
        return None
    i = _one(rng, candidates)
    half = CELLS_PER_SIDE // 2
    answer = POSITIONS[2 * int(scene.rows[i] >= half) + int(scene.columns[i] >= half)]
    wrong = [p for p in POSITIONS if p != answer]
    rng.shuffle(wrong)
    return Question(f"Where is the {object_name(scene.pairs[i])}?", answer, (i,), tuple(wrong))


def _neighbours(scene: Scene, i: int) -> list[tuple[str, int]]:
    """(direction, object) of the nearest object in the same row or column, per direction."""
    found = []
    for name, row_step, column_step in zip(DIRECTIONS, (0, 0, -1, 1), (-1, 1, 0, 0), strict=True):
        rows, columns = scene.rows - scene.rows[i], scene.columns - scene.columns[i]
        ahead = (rows * row_step > 0) & (columns == 0) if row_step else (columns * column_step > 0) & (rows == 0)
        if ahead.any():
            distance = np.where(ahead, np.abs(rows) + np.abs(columns), CELLS_PER_SIDE * 2)
            found.append((name, int(distance.argmin())))
    return found


def _next_to(rng: np.random.Generator, scene: Scene) -> tuple[int, str, int] | None:
    """(named object, direction, object that lies there), drawn from all that the scene has."""
    candidates = [(i, *found) for i in _only(scene.pairs) for found in _neighbours(scene, i)]
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def hop(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Colour or shape of what lies next to a named object: find the one, then the other."""
    found = _next_to(rng, scene)
    if found is None:
        return None
    anchor, direction, target = found
    asked, values, names = (
        ("color", scene.colors, COLOR_NAMES) if rng.random() < 0.5 else ("shape", scene.shapes, SHAPE_NAMES)
    )
    answer = names[values[target]]
    wrong = hard_first(rng, [names[v] for v in values], names, answer)
    text = f"What {asked} is the object {direction} the {object_name(scene.pairs[anchor])}?"
    return Question(text, answer, (anchor, target), wrong)


def hop_pair(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Colour and shape of what lies next to a named object."""
    found = _next_to(rng, scene)
    if found is None:
        return None
    anchor, direction, target = found
    answer = object_name(scene.pairs[target])
    named = object_name(scene.pairs[anchor])
    present = [name for name in map(object_name, scene.pairs) if name != named]
    absent = [name for name in map(object_name, rng.choice(NUM_PAIRS, 8)) if name != named]
    wrong = hard_first(rng, present, absent, answer)
    return Question(f"What is {direction} the {named}?", answer, (anchor, target), wrong)


def count(rng: np.random.Generator, scene: Scene) -> Question | None:
    """How many objects share a colour or a shape."""
    values, names = (scene.colors, COLOR_NAMES) if rng.random() < 0.6 else (scene.shapes, SHAPE_NAMES)
    value = int(rng.choice(values)) if rng.random() < 0.85 else int(rng.integers(len(names)))
    members = np.flatnonzero(values == value)
    wrong = [str(n) for n in range(5) if n != len(members)]
    rng.shuffle(wrong)
    text = f"How many {names[value]} objects are there?"
    return Question(text, str(len(members)), tuple(map(int, members)), tuple(wrong))


def more(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Of which of two colours there are more objects."""
    present = list(dict.fromkeys(map(int, scene.colors)))
    if len(present) < 2:
        return None
    first, second = (int(c) for c in rng.permutation(present)[:2])
    members = np.flatnonzero((scene.colors == first) | (scene.colors == second))
    ahead = int((scene.colors == first).sum()) - int((scene.colors == second).sum())
    if ahead == 0 and rng.random() < 0.6:
        return None
    names = (COLOR_NAMES[first], COLOR_NAMES[second])
    answer = "same" if ahead == 0 else names[0] if ahead > 0 else names[1]
    wrong = tuple(x for x in (*names, "same") if x != answer)
    text = f"Are there more {names[0]} objects or {names[1]} objects?"
    return Question(text, answer, tuple(map(int, members)), wrong)


CHOICE_KINDS: dict[str, Callable[[np.random.Generator, Scene], Question | None]] = {
    "color": color,
    "shape": shape,
    "position": position,
    "hop": hop,
    "hop-pair": hop_pair,
    "count": count,
    "more": more,
}


# ---------------------------------------------------------------- existence


def absent_pair(rng: np.random.Generator, scene: Scene, how: str) -> int:
    """A pair that is not in the scene, chosen as POPE does: ``random``, ``popular`` or ``adversarial``.

    ``binding`` (colour and shape both present, but not together) is for training only.
    """
    present = np.zeros(NUM_PAIRS, bool)
    present[scene.pairs] = True
    absent = np.flatnonzero(~present)
    if how == "binding":
        both = np.isin(absent // len(SHAPE_NAMES), scene.colors) & np.isin(absent % len(SHAPE_NAMES), scene.shapes)
        return int(rng.choice(absent[both] if both.any() else absent))
    if how == "random":
        return int(rng.choice(absent))
    rank = frequency() if how == "popular" else co_occurrence()[scene.pairs].sum(0)
    return int(rng.choice(absent[np.argsort(-rank[absent], kind="stable")][:NUM_RANKED]))


def existence(rng: np.random.Generator, scene: Scene, negative: str | None) -> Question:
    """``Is there a red circle in the image?`` - yes when ``negative`` is None, else no, with that kind of negative."""
    if negative is None:
        pair = int(rng.choice(scene.pairs))
        objects = tuple(map(int, np.flatnonzero(scene.pairs == pair)))
        return Question(f"Is there a {object_name(pair)} in the image?", "yes", objects)
    pair = absent_pair(rng, scene, negative)
    return Question(f"Is there a {object_name(pair)} in the image?", "no")


NEGATIVES = ("random", "popular", "adversarial")


# ---------------------------------------------------------------- captions

CAPTION_TEXT = "Describe the image."


def caption(scene: Scene) -> Question:
    """All objects in reading order, e.g. ``red circle, blue star.`` as text."""
    names = ", ".join(object_name(pair) for pair in scene.pairs)
    return Question(CAPTION_TEXT, f"{names}.", tuple(range(len(scene.pairs))))
