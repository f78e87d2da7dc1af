"""Conversations about generated training scenes: the bundled source, endless, offline, disjoint from the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import overload

import numpy as np
from PIL import Image

from lit_simignore.benchmarks._letters import letter_segments
from lit_simignore.data.conversations import Conversation, conversation_of
from lit_simignore.shapes import questions as q
from lit_simignore.shapes.scenes import draw_scene, render
from lit_simignore.types import Role, Sample, Segment, UserError

KINDS = ("color", "shape", "hop", "count", "more", "existence")
"""What the bundled benchmark asks; each question is about a scene of its own."""


class ShapesConversations(Sequence[Conversation]):
    """One question and answer per scene of the training world; entry ``i`` depends on ``seed`` and ``i`` only.

    Args:
        num_scenes: how many; scenes are drawn when they are asked for.
        seed: draws other scenes.

    Raises:
        UserError: fewer than one scene.
    """

    def __init__(self, num_scenes: int = 100_000, seed: int = 0) -> None:
        if num_scenes < 1:
            raise UserError(f"expected at least one scene to train on; got {num_scenes}")
        self.num_scenes, self.seed = num_scenes, seed

    def __len__(self) -> int:
        return self.num_scenes

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < self.num_scenes:
            raise IndexError(index)
        return conversation_of(_sample(self.seed, index))


def _rng(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng((seed, 77, index))


def _picture(seed: int, index: int) -> Image.Image:
    rng = _rng(seed, index)
    return Image.fromarray(render(draw_scene(rng, "train"), rng, "train"))


def _sample(seed: int, index: int) -> Sample:
    scene = draw_scene(_rng(seed, index), "train")
    rng = np.random.default_rng((seed, 78, index))
    kind, question = _question(rng, scene, index)
    choices: tuple[str, ...] = ()
    if question.distractors:
        choice = q.with_options(rng, question, 3 if kind == "more" else None)
        segments, answer, choices = letter_segments(question.text, choice.options), choice.letter, choice.options
    else:
        segments, answer = (Segment(question.text, Role.QUESTION),), question.answer
    return Sample(
        sample_id=f"train-{seed}-{index}",
        segments=segments,
        images=(partial(_picture, seed, index),),
        choices=choices,
        answer=answer,
        kind=kind,
    )


def _question(rng: np.random.Generator, scene: q.Scene, index: int) -> tuple[str, q.Question]:
    """The kind whose turn it is, or the next one that the scene allows; questions of existence always are."""
    for offset in range(len(KINDS)):
        kind = KINDS[(index + offset) % len(KINDS)]
        if kind == "existence":
            negative = None if rng.random() < 0.5 else q.NEGATIVES[int(rng.integers(len(q.NEGATIVES)))]
            return kind, q.existence(rng, scene, negative)
        found = q.CHOICE_KINDS[kind](rng, scene)
        if found is not None:
            return kind, found
    raise AssertionError("existence is always allowed")
