"""Oracle: descriptions counted by hand, and a loop that walks the lists as the paper describes it."""

from __future__ import annotations

import random

import pytest

from lit_simignore.metrics.amber import Description, amber_scores

ASSOCIATED = {"tree": ["oak"], "dog": ["puppy"], "person": ["man"], "sea": ["wave"], "boat": [], "bird": ["gull"]}


def test_hand_counted_descriptions() -> None:
    descriptions = [
        # oak covers the tree; a man is invented, as expected; the scene is safe but counts as a noun.
        Description(["oak", "man", "scene", "oak"], ["tree", "dog"], ["person"]),
        # nothing invented
        Description(["wave", "sea"], ["sea"], ["boat", "bird"]),
        # one unexpected invention
        Description(["dog"], ["sea"], ["boat"]),
        # silent
        Description([], ["bird"], []),
    ]
    found = amber_scores(descriptions, ASSOCIATED, {"scene"})
    assert found.chair == pytest.approx(2 / 7)
    assert found.cover == pytest.approx(2 / 5)
    assert found.hal == pytest.approx(2 / 4)
    assert found.cog == pytest.approx(1 / 4)


def test_safe_words_neither_cover_nor_invent() -> None:
    assert amber_scores([Description(["wave"], ["sea"], ["boat"])], ASSOCIATED, {"wave"}) == (0.0, 0.0, 0.0, 0.0)
    assert amber_scores([], ASSOCIATED, set()) == (0.0, 0.0, 0.0, 0.0)


def test_a_loop_over_objects_agrees() -> None:
    generator = random.Random(0)
    objects = list(ASSOCIATED)
    vocabulary = objects + [word for words in ASSOCIATED.values() for word in words]
    descriptions = []
    for _ in range(50):
        order = generator.sample(objects, 5)
        nouns = [generator.choice(vocabulary) for _ in range(generator.randrange(6))]
        descriptions.append(Description(nouns, order[:2], order[2:4]))
    safe = {"gull"}

    def means(noun: str, names: object) -> bool:
        return any(noun == name or noun in ASSOCIATED[name] for name in names)  # type: ignore[attr-defined]

    wrong = [[n for n in d.nouns if n not in safe and not means(n, d.truth)] for d in descriptions]
    covered = sum(any(means(n, [t]) for n in d.nouns if n not in safe) for d in descriptions for t in d.truth)
    both = list(zip(descriptions, wrong, strict=True))
    expected = sum(any(means(noun, [name]) for noun in bad) for each, bad in both for name in each.likely)
    found = amber_scores(descriptions, ASSOCIATED, safe)
    assert found.chair == pytest.approx(sum(map(len, wrong)) / sum(len(d.nouns) for d in descriptions))
    assert found.hal == pytest.approx(sum(map(bool, wrong)) / 50)
    assert found.cover == pytest.approx(covered / 100)
    assert found.cog == pytest.approx(expected / 100)
