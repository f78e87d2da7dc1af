"""Object hallucination: yes/no probing (POPE) and mentioned-object scores (CHAIR), from answers already parsed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from lit_simignore.types import UserError


class YesNoCounts(NamedTuple):
    """Confusion counts with "yes" as the positive class. ``unparsed_*`` are answers that are neither, by gold label."""

    true_yes: int = 0
    false_yes: int = 0
    true_no: int = 0
    false_no: int = 0
    unparsed_yes: int = 0
    unparsed_no: int = 0

    @property
    def total(self) -> int:
        """All samples."""
        return sum(self)


class YesNoScores(NamedTuple):
    """POPE's five numbers, each 0 to 1."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def count_yes_no(pairs: Iterable[tuple[str | None, str]]) -> YesNoCounts:
    """Count ``(parsed, gold)`` pairs.

    Args:
        pairs: ``parsed`` is "yes", "no" or ``None`` (neither); ``gold`` is "yes" or "no".

    Raises:
        UserError: any other word.
    """
    counts = dict.fromkeys(YesNoCounts._fields, 0)
    for parsed, gold in pairs:
        if gold not in ("yes", "no") or parsed not in ("yes", "no", None):
            raise UserError(f"expected 'yes' or 'no' (or no answer); got {parsed!r} for the label {gold!r}")
        verdict = "unparsed" if parsed is None else "true" if parsed == gold else "false"
        counts[f"{verdict}_{gold if parsed is None else parsed}"] += 1
    return YesNoCounts(**counts)


def yes_no_scores(counts: YesNoCounts) -> YesNoScores:
    """POPE's metrics.

    An unparsed answer is wrong: it lowers accuracy and, for a gold "yes", recall; it is not a "yes". POPE's own
    parsers never leave an answer unparsed. A ratio without a denominator is 0 (the released script divides by zero).

    Source: Li et al., EMNLP 2023 (arXiv:2305.10355), section 5.
    """
    said_yes = counts.true_yes + counts.false_yes
    is_yes = counts.true_yes + counts.false_no + counts.unparsed_yes
    precision, recall = _ratio(counts.true_yes, said_yes), _ratio(counts.true_yes, is_yes)
    return YesNoScores(
        accuracy=_ratio(counts.true_yes + counts.true_no, counts.total),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        yes_ratio=_ratio(said_yes, counts.total),
    )


class CaptionObjects(NamedTuple):
    """One caption, reduced to objects.

    Args:
        mentioned: canonical names of the objects that the caption mentions, with repeats.
        present: canonical names of the objects that are in the image.
        num_words: length of the caption.
    """

    mentioned: Sequence[str]
    present: Collection[str]
    num_words: int = 0


class ChairScores(NamedTuple):
    """CHAIR's numbers: three fractions (0 to 1, lower is better for the first two) and the mean length in words."""

    chair_i: float
    chair_s: float
    recall: float
    mean_length: float


class ChairCounts(NamedTuple):
    """Sums over captions from which every CHAIR number follows; adding two gives the counts of both sets."""

    captions: int = 0
    hallucinated_captions: int = 0
    mentions: int = 0
    hallucinated_mentions: int = 0
    present: int = 0
    found: int = 0
    words: int = 0


def count_chair(captions: Iterable[CaptionObjects]) -> ChairCounts:
    """Sum what CHAIR needs over captions."""
    totals = [0] * len(ChairCounts._fields)
    for caption in captions:
        present = set(caption.present)
        wrong = sum(name not in present for name in caption.mentioned)
        found = len(present.intersection(caption.mentioned))
        row = (1, int(wrong > 0), len(caption.mentioned), wrong, len(present), found, caption.num_words)
        totals = [total + value for total, value in zip(totals, row, strict=True)]
    return ChairCounts(*totals)


def chair_scores(counts: ChairCounts) -> ChairScores:
    """CHAIR from its counts.

    ``chair_i`` = hallucinated mentions / mentions (repeats count); ``chair_s`` = captions with a hallucination /
    captions; ``recall`` = distinct present objects that are mentioned / distinct present objects; all over the whole
    set, not averaged per caption. A ratio without a denominator is 0: nothing said, nothing invented.

    Source: Rohrbach et al., EMNLP 2018 (arXiv:1809.02156), section 3.1; recall and length as in OPERA's evaluation.
    """
    return ChairScores(
        chair_i=_ratio(counts.hallucinated_mentions, counts.mentions),
        chair_s=_ratio(counts.hallucinated_captions, counts.captions),
        recall=_ratio(counts.found, counts.present),
        mean_length=_ratio(counts.words, counts.captions),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
