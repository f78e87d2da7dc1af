"""How an option of a multiple-choice question is chosen: written by the model, or taken for its likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from lit_simignore.benchmarks._letters import LETTERS
from lit_simignore.types import Candidates


class Scoring(str, Enum):
    """How an option is chosen."""

    GENERATE = "generate"
    LETTER = "likelihood"
    TEXT = "likelihood-text"
    TEXT_MEAN = "likelihood-text-mean"


def option_candidates(scoring: Scoring, choices: Sequence[str]) -> Candidates | None:
    """The options' letters or texts, by their letters; ``None`` if the model is to write its answer.

    A question without options has no candidates: its answer is written whatever ``scoring`` says.
    """
    if scoring is Scoring.GENERATE or not choices:
        return None
    letters = tuple(LETTERS[: len(choices)])
    if scoring is Scoring.LETTER:
        return Candidates(letters, letters)
    return Candidates(letters, tuple(choices), per_token=scoring is Scoring.TEXT_MEAN)
