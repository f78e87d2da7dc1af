"""Training batches: many questions about one scene in short slots, each seeing the picture and itself only.

Because every question keeps the positions and the neighbours that it has alone, this gives the same logits as one
prompt per question, and the picture is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from lit_simignore.benchmarks._letters import letter_segments
from lit_simignore.pico.architecture import build_tokenizer
from lit_simignore.pico.config import PicoConfig
from lit_simignore.shapes import questions as q
from lit_simignore.shapes.scenes import Scene, draw_scene, patch_owners, render
from lit_simignore.shapes.vocabulary import COLOR_NAMES, EOS, PAD, SHAPE_NAMES

Asked = tuple[str, str]
"""A user's message and the answer to it."""
SINGLE_WORD_EOS_WEIGHT = 0.1
SLOT_LENGTH = 32
"""Tokens of a slot: the longest question of the generated world, with its answer, fits."""
TEXT_LENGTH = 48
"""Tokens of a text-only row; its context line makes it longer."""
CAPTION_SHARE, HARD_CAPTION_SHARE = 0.35, 0.2
"""Share of scenes whose caption is asked for."""
HARD_LETTERS_SHARE = 0.15
TRAIN_NEGATIVES = ("random", "binding", "random", "adversarial", "popular")

MAIN_MIX = {
    "existence": 2.2,
    "open color": 0.4,
    "open shape": 0.4,
    "open position": 0.3,
    "open count": 0.4,
    "open hop-pair": 1.0,
    "color": 0.7,
    "shape": 0.7,
    "position": 0.6,
    "hop-pair": 1.6,
    "count": 0.9,
    "more": 0.9,
}
EASY_MIX = {
    "existence": 1.6,
    "open color": 1.5,
    "open shape": 1.5,
    "open position": 0.8,
    "open count": 0.7,
    "open hop-pair": 1.0,
    "color": 0.5,
    "shape": 0.5,
}
HARD_MIX = {
    "existence": 1.2,
    "open position": 0.5,
    "open count": 0.3,
    "open hop-pair": 0.8,
    "color": 1.3,
    "shape": 1.3,
    "position": 1.1,
    "hop-pair": 1.9,
    "count": 1.2,
    "more": 1.0,
}
"""For a model that names what it sees: mostly letters, which need the answer and its option brought together."""
FINAL_MIX = {
    "existence": 1.2,
    "open count": 0.3,
    "open hop": 1.0,
    "color": 0.8,
    "shape": 0.7,
    "hop": 2.4,
    "hop-pair": 0.6,
    "count": 1.6,
    "more": 1.4,
}
"""Without positions, which stay at chance as multiple choice, for the sake of hops with one-word answers."""
KINDS = tuple(dict.fromkeys(("caption", *MAIN_MIX, *FINAL_MIX, "text")))


@dataclass(slots=True)
class Rows:
    """Packed text. All ``(R, L)``: R = scenes x slots, the slots of one scene next to each other.

    Args:
        ids: int64 token ids, ``PAD`` behind the last question.
        weights: float32 loss weight of *predicting* this token.
        segments: int64 number of the question within its row, -1 on padding.
        positions: int64 position within the question, from 0.
        kinds: int64 index into ``KINDS``, -1 on padding.
    """

    ids: Tensor
    weights: Tensor
    segments: Tensor
    positions: Tensor
    kinds: Tensor


@dataclass(slots=True)
class PicoBatch:
    """One optimiser step's data. ``pixels`` ``(B, 96, 96, 3)`` uint8, ``colors``/``shapes`` ``(B, 144)`` -1 = none."""

    pixels: Tensor | None
    colors: Tensor | None
    shapes: Tensor | None
    rows: Rows | None
    text: Rows | None


@lru_cache(maxsize=1)
def _tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@lru_cache(maxsize=65536)
def encode(text: str) -> tuple[int, ...]:
    """Token ids without ``<s>``."""
    return tuple(_tokenizer().encode(text, add_special_tokens=False))


def choice_message(rng: np.random.Generator, question: q.Question, context: str = "") -> Asked:
    """The multiple-choice form of a question."""
    comparison = "same" in (*question.distractors, question.answer)
    choice = q.with_options(rng, question, 3 if comparison else None)
    return "".join(s.text for s in letter_segments(question.text, choice.options, context)), choice.letter


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Asked | None:
    """A question of ``kind`` about ``scene``, or None where the scene does not allow it."""
    if kind == "existence":
        how = None if rng.random() < 0.5 else TRAIN_NEGATIVES[rng.integers(len(TRAIN_NEGATIVES))]
        asked = q.existence(rng, scene, how)
        return asked.text, asked.answer
    if kind == "caption":
        asked = q.caption(scene)
        return asked.text, asked.answer
    question = q.CHOICE_KINDS[kind.removeprefix("open ")](rng, scene)
    if question is None:
        return None
    return (question.text, question.answer) if kind.startswith("open ") else choice_message(rng, question)


def ask_without_picture(rng: np.random.Generator, letters_share: float = 0.4) -> Asked:
    """Text-only practice: which letter stands for what, and reading a fact out of the context line."""
    if rng.random() < letters_share:
        names = [COLOR_NAMES, SHAPE_NAMES, tuple(q.object_name(p) for p in rng.choice(q.NUM_PAIRS, 6, replace=False))]
        pool = [str(x) for x in rng.permutation(names[rng.integers(3)])]
        return choice_message(rng, q.Question(f"Which is {pool[0]}?", pool[0], (), tuple(pool[1:5])))
    size = int(rng.integers(2, 4))
    colors = rng.choice(len(COLOR_NAMES), size, replace=False)
    shapes = rng.choice(len(SHAPE_NAMES), size, replace=False)
    objects = [f"a {COLOR_NAMES[c]} {SHAPE_NAMES[s]}" for c, s in zip(colors, shapes, strict=True)]
    context = f"There is {' and '.join(objects)}."
    i = int(rng.integers(size))
    if rng.random() < 0.5:
        answer, every, text = COLOR_NAMES[colors[i]], COLOR_NAMES, f"What color is the {SHAPE_NAMES[shapes[i]]}?"
        near = [COLOR_NAMES[c] for c in colors]
    else:
        answer, every, text = SHAPE_NAMES[shapes[i]], SHAPE_NAMES, f"What shape is the {COLOR_NAMES[colors[i]]} object?"
        near = [SHAPE_NAMES[s] for s in shapes]
    return choice_message(rng, q.Question(text, answer, (), q.hard_first(rng, near, every, answer)), context)


def pack(rows: list[list[tuple[Asked, str]]], slots: int, length: int) -> Rows:
    """Put every row's questions into ``slots`` slots of ``length`` tokens, first fit; what fits nowhere is left out."""
    shape = (len(rows) * slots, length)
    ids, positions = np.full(shape, PAD, np.int64), np.zeros(shape, np.int64)
    segments, kinds, weights = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    used = np.zeros(shape[0], np.int64)
    for b, row in enumerate(rows):
        for number, ((message, answer), kind) in enumerate(row):
            prompt, reply = encode(f"{message} ASSISTANT:"), encode(answer)
            size = len(prompt) + len(reply) + 1
            room = np.flatnonzero(used[b * slots : (b + 1) * slots] + size <= length)
            if not len(room):
                continue
            slot = b * slots + int(room[0])
            start, end = int(used[slot]), int(used[slot]) + size
            ids[slot, start:end] = (*prompt, *reply, EOS)
            weights[slot, start + len(prompt) : end] = 1.0
            weights[slot, end - 1] = SINGLE_WORD_EOS_WEIGHT if len(reply) == 1 else 1.0
            segments[slot, start:end], positions[slot, start:end] = number, np.arange(size)
            kinds[slot, start:end] = KINDS.index(kind)
            used[slot] = end
    return Rows(*(torch.from_numpy(x) for x in (ids, weights, segments, positions, kinds)))


def scene_questions(
    rng: np.random.Generator, scene: Scene, mix: Mapping[str, float], count: int, caption_share: float
) -> list[tuple[Asked, str]]:
    """About ``count`` questions, the caption first where it is asked for."""
    names, share = list(mix), np.array(list(mix.values()))
    drawn = [names[i] for i in rng.choice(len(names), count, p=share / share.sum())]
    if rng.random() < caption_share:
        drawn.insert(0, "caption")
    asked = [(ask(rng, scene, kind), kind) for kind in drawn]
    return [(message, kind) for message, kind in asked if message is not None]


def text_rows(rng: np.random.Generator, count: int, letters_share: float = 0.4) -> Rows:
    """``count`` rows of text-only questions."""
    asked = [[(ask_without_picture(rng, letters_share), "text") for _ in range(4)] for _ in range(count)]
    return pack(asked, 1, TEXT_LENGTH)


def draw_batch(config: PicoConfig, step: int) -> PicoBatch:
    """The data of one step. Depends on the seed and the step only, so a resumed training sees the same stream."""
    rng = np.random.default_rng((config.seed, step))
    if step < config.text_steps:
        return PicoBatch(None, None, None, None, text_rows(rng, 4 * config.batch_size))
    scenes = [draw_scene(rng, "train") for _ in range(config.batch_size)]
    pixels = torch.from_numpy(np.stack([render(scene, rng, "train") for scene in scenes]))
    colors, shapes = (torch.from_numpy(x) for x in patch_labels(scenes))
    stage = step - config.text_steps - config.vision_steps
    if stage < 0:
        return PicoBatch(pixels, colors, shapes, None, None)
    hard = step >= config.hard_from
    mix = FINAL_MIX if step >= config.final_from else HARD_MIX if hard else MAIN_MIX
    mix = EASY_MIX if stage < config.easy_steps else mix
    share = HARD_CAPTION_SHARE if hard else CAPTION_SHARE
    asked = [scene_questions(rng, scene, mix, 3 * config.slots, share) for scene in scenes]
    text = text_rows(rng, config.text_rows, HARD_LETTERS_SHARE if hard else 0.4) if config.text_rows else None
    return PicoBatch(pixels, colors, shapes, pack(asked, config.slots, SLOT_LENGTH), text)


def patch_labels(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Colour and shape index of the object under every patch, ``(B, 144)`` int64, -1 on background."""
    owners = [patch_owners(scene) for scene in scenes]
    colors = [np.where(o >= 0, s.colors[o], -1) for s, o in zip(scenes, owners, strict=True)]
    shapes = [np.where(o >= 0, s.shapes[o], -1) for s, o in zip(scenes, owners, strict=True)]
    return np.stack(colors), np.stack(shapes)


class PicoStream(IterableDataset[PicoBatch]):
    """Batches from ``first_step`` to the last step of the recipe; ``draw`` is replaceable in tests."""

    def __init__(
        self, config: PicoConfig, first_step: int = 0, draw: Callable[[PicoConfig, int], PicoBatch] = draw_batch
    ) -> None:
        self.config, self.first_step, self.draw = config, first_step, draw

    def __iter__(self) -> Iterator[PicoBatch]:
        for step in range(self.first_step, self.config.steps):
            yield self.draw(self.config, step)
