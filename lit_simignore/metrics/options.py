"""Multiple choice beyond accuracy: does an answer survive another order of the options, and are letters favoured?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class LetterBias(NamedTuple):
    """How far letters decide, instead of what they stand for; each 0 to 1, 0 is none.

    Args:
        shift: total variation distance between the letters that were said and those that are right.
        recall_std: standard deviation over the letters of the share of right answers where that letter is right.
    """

    shift: float
    recall_std: float


def circular_accuracy(scored: Iterable[tuple[str, float | None]]) -> float | None:
    """Share of questions that are answered rightly in every order of their options; ``None`` without a scored one.

    Args:
        scored: ``(question, score)``, a score of 1 for right, once for every order that was asked. A question with an
            order without a score is left out.

    Source: CircularEval of MMBench (arXiv:2307.06281), section 4.1.
    """
    by_question: defaultdict[str, list[float | None]] = defaultdict(list)
    for question, score in scored:
        by_question[question].append(score)
    complete = [scores for scores in by_question.values() if None not in scores]
    return sum(all(score == 1 for score in scores) for scores in complete) / len(complete) if complete else None


def letter_bias(pairs: Sequence[tuple[str | None, str]]) -> LetterBias | None:
    """Letters that were said against letters that are right; ``None`` without a pair.

    Args:
        pairs: ``(said, right)``; an answer without a letter is no letter of its own and is wrong.

    Source: the standard deviation of recalls is that of Zheng et al., ICLR 2024 (arXiv:2309.03882), section 2; over the
    letters that are right at least once.
    """
    if not pairs:
        return None
    right = Counter(gold for _, gold in pairs)
    said = Counter(letter for letter, _ in pairs if letter is not None)
    total_said = sum(said.values())
    letters = set(right) | set(said)
    shift = sum(abs(said[x] / total_said - right[x] / len(pairs)) for x in letters) / 2 if total_said else 0.0
    hits = Counter(gold for letter, gold in pairs if letter == gold)
    recalls = [hits[letter] / count for letter, count in right.items()]
    mean = sum(recalls) / len(recalls)
    return LetterBias(shift, math.sqrt(sum((recall - mean) ** 2 for recall in recalls) / len(recalls)))
