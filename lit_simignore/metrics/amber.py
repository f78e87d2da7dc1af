"""AMBER's scores of free descriptions: what is invented, what is covered, what is invented as people would expect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple


class Description(NamedTuple):
    """One description, reduced to nouns.

    Args:
        nouns: those that the association table knows, with repeats.
        truth: objects that are in the image.
        likely: objects that are not, and that a model is likely to invent there.
    """

    nouns: Sequence[str]
    truth: Sequence[str]
    likely: Sequence[str]


class AmberScores(NamedTuple):
    """Fractions 0 to 1; only ``cover`` is better higher."""

    chair: float
    cover: float
    hal: float
    cog: float


def amber_scores(
    descriptions: Iterable[Description], associated: Mapping[str, Sequence[str]], safe: Collection[str]
) -> AmberScores:
    """AMBER's four numbers over a set of descriptions.

    ``chair`` = nouns that are invented / nouns; ``cover`` = objects of the truth that are named, by themselves or by an
    associated word / objects of the truth; ``hal`` = descriptions with something invented / descriptions; ``cog`` =
    likely inventions that are named / likely inventions. A noun is invented unless it is safe, true or associated with
    something true. All are sums over the set before the division, without a denominator 0.

    Args:
        descriptions: see :class:`Description`.
        associated: for every object, words that mean it as well.
        safe: words that are never invented.

    Source: Wang et al., 2023 (arXiv:2311.07397), section 3.3, with ``cog`` as the released code computes it (over the
    likely inventions; the paper divides by the nouns). The release also takes two words for one when the vectors of a
    large spaCy model are more than 0.8 alike; that needs 500 MB of weights and is left out: ``chair``, ``hal`` are a
    little higher here, ``cover`` and ``cog`` a little lower. A noun that stands for two objects covers the first here
    and there.
    """
    nouns = invented = truths = covered = texts = bad = likely = expected = 0
    for description in descriptions:
        known = _owners(description.truth, associated)
        guesses = _owners(description.likely, associated)
        wrong = [noun for noun in description.nouns if noun not in safe and noun not in known]
        checked = [noun for noun in description.nouns if noun not in safe]
        nouns += len(description.nouns)
        invented += len(wrong)
        truths += len(description.truth)
        covered += len({known[noun] for noun in checked if noun in known})
        texts += 1
        bad += bool(wrong)
        likely += len(description.likely)
        expected += len({guesses[noun] for noun in wrong if noun in guesses})
    return AmberScores(_ratio(invented, nouns), _ratio(covered, truths), _ratio(bad, texts), _ratio(expected, likely))


def _owners(objects: Sequence[str], associated: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Which object each word stands for; associated words are looked up first, as in the release."""
    found: dict[str, int] = {}
    for index, name in enumerate(objects):
        for word in associated.get(name, ()):
            found.setdefault(word, index)
    for index, name in enumerate(objects):
        found.setdefault(name, index)
    return found


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
