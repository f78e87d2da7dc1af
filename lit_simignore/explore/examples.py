"""Scenes of the bundled benchmark's world to click on, each with questions and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_simignore.shapes import questions as q
from lit_simignore.shapes.scenes import CROWDED, EASY, Scene, draw_scene, render

NUM_SCENES = 6
_SEED = 20


@dataclass(frozen=True, slots=True)
class ExampleQuestion:
    """A question, its options, and the right answer (a letter where there are options)."""

    text: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One scene of the test world: the bundled model was not trained on it."""

    key: str
    image: Image.Image
    questions: tuple[ExampleQuestion, ...]


def draw_examples() -> list[Example]:
    """The scenes, the last one more crowded than training ever shows; the same on every machine."""
    return [_example(index) for index in range(NUM_SCENES)]


def _example(index: int) -> Example:
    rng = np.random.default_rng((_SEED, index))
    scene = draw_scene(rng, "test", CROWDED if index == NUM_SCENES - 1 else EASY)
    image = Image.fromarray(render(scene, rng, "test"))
    return Example(f"scene-{index + 1}", image, tuple(_questions(scene, np.random.default_rng((_SEED, index, 1)))))


def _questions(scene: Scene, rng: np.random.Generator) -> Sequence[ExampleQuestion]:
    free = [q.existence(rng, scene, None), q.existence(rng, scene, "adversarial"), q.caption(scene)]
    found = [ExampleQuestion(question.text, (), question.answer) for question in free]
    kinds: list[Callable[[np.random.Generator, Scene], q.Question | None]] = [q.color, q.shape, q.count, q.hop]
    for kind in kinds:
        question = kind(rng, scene)
        if question is not None:
            choice = q.with_options(rng, question)
            found.append(ExampleQuestion(question.text, choice.options, choice.letter))
    return found
