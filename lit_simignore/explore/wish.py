"""What the page asks for, checked: the browser's JSON is as untrusted as any other input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_simignore.benchmarks._letters import LETTERS, letter_segments
from lit_simignore.types import Role, Sample, Segment, UserError

MAX_QUESTION = 4000
MAX_OPTIONS = len(LETTERS)
_MAX_SETTINGS = 400
_TEXTS = ("image", "question", "options", "prune", "prune_settings", "heads", "heads_settings", "flow")

FLOWS = ("none", "attention", "cam")
"""Nothing; attention over the image; that and LLaVA-CAM, which takes a backward pass."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One question about one image, under one method.

    Args:
        image: key of an image that the server holds.
        question: as typed, without surrounding blanks.
        options: answer options; with them the question is put in ScienceQA's form, as ``benchmark=jsonl`` does.
        prune: method that drops visual tokens, as ``eval.py`` calls it; empty for none.
        num_keep: visual tokens to keep; ``None`` leaves the method its own setting.
        prune_settings: ``FIELD=value`` of that method.
        heads: method that drops none: it changes attention or predictions; empty for none.
        heads_settings: ``FIELD=value`` of that one.
        flow: which information flow to show besides, of :data:`FLOWS`.
    """

    image: str
    question: str
    options: tuple[str, ...] = ()
    prune: str = ""
    num_keep: int | None = None
    prune_settings: tuple[str, ...] = ()
    heads: str = ""
    heads_settings: tuple[str, ...] = ()
    flow: str = "none"

    @property
    def method(self) -> str:
        """The method's name in the grammar of ``eval.py``; the untouched model is ``baseline``."""
        count = () if self.num_keep is None else (str(self.num_keep),)
        terms = [
            "@".join([self.prune, *self.prune_settings, *count]) if self.prune else "",
            "@".join([self.heads, *self.heads_settings]) if self.heads else "",
        ]
        return "+".join(filter(None, terms)) or "baseline"

    @property
    def asked(self) -> tuple[str, str, tuple[str, ...]]:
        """What the prompt depends on."""
        return self.image, self.question, self.options

    def sample(self, image: Any) -> Sample:
        """The prompt with the opened ``image``."""
        free = (Segment(self.question, Role.QUESTION),)
        segments = letter_segments(self.question, self.options) if self.options else free
        # Seeded rules draw by this: the same question about the same image gets the same tokens.
        return Sample(sample_id=self.image, segments=segments, images=(image,), choices=self.options)


def read_wish(said: object) -> Wish:
    """A wish from decoded JSON.

    Raises:
        UserError: one line on the first thing that is missing, of another type, or too long.
    """
    if not isinstance(said, Mapping):
        raise UserError(f"expected an object with image, question and method; got a {type(said).__name__}")
    unknown = sorted(str(key) for key in set(said) - {*_TEXTS, "num_keep"})
    if unknown:
        raise UserError(f"unknown key {unknown[0]!r}; valid: {', '.join((*_TEXTS, 'num_keep'))}")
    texts = {key: _text(said, key) for key in _TEXTS}
    return Wish(
        image=texts["image"],
        question=_question(texts["question"]),
        options=_options(texts["options"]),
        prune=_name(texts["prune"]),
        num_keep=_count(said.get("num_keep")),
        prune_settings=read_settings(texts["prune_settings"]),
        heads=_name(texts["heads"]),
        heads_settings=read_settings(texts["heads_settings"]),
        flow=_flow(texts["flow"]),
    )


def _text(said: Mapping[Any, Any], key: str) -> str:
    value = said.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"{key} must be text; got a {type(value).__name__}")
    return value.strip()


def _question(text: str) -> str:
    if not text:
        raise UserError("a question is needed: type one, or take one of the example questions")
    if len(text) > MAX_QUESTION:
        raise UserError(f"the question has {len(text):,} characters; at most {MAX_QUESTION:,} are taken: shorten it")
    return text


def _options(text: str) -> tuple[str, ...]:
    options = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(options) == 1 or len(options) > MAX_OPTIONS or len(set(options)) < len(options):
        raise UserError(f"answer options are 2 to {MAX_OPTIONS} different lines, or none at all; got {len(options)}")
    if len(text) > MAX_QUESTION:
        raise UserError(f"the answer options have {len(text):,} characters; at most {MAX_QUESTION:,} are taken")
    return options


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{0,80}", text):
        raise UserError(f"expected the name of one method; got {text[:80]!r}")
    return text


def _flow(text: str) -> str:
    if text and text not in FLOWS:
        raise UserError(f"flow must be one of {', '.join(FLOWS)}; got {text[:40]!r}")
    return text or "none"


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"num_keep must be a whole number of visual tokens to keep, 0 or more; got {str(value)[:20]!r}")
    return value


def read_settings(text: str) -> tuple[str, ...]:
    """``layers=[1, 2] text=question`` as one text per field.

    Raises:
        UserError: anything but ``FIELD=value`` pairs.
    """
    if not text:
        return ()
    if len(text) > _MAX_SETTINGS or re.search(r"[@+]", text):
        raise UserError(f"settings are FIELD=value with blanks in between, without @ and +; got {text[:60]!r}")
    found = tuple(part.strip() for part in re.split(r"\s+(?=[\w.]+=)", text))
    wrong = next((part for part in found if not re.match(r"[\w.]+=\s*\S", part)), None)
    if wrong is not None:
        raise UserError(f"settings are FIELD=value with blanks in between, such as layer_idx=2; got {wrong!r}")
    return found
