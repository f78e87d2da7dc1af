"""Objects in captions, read by hand; the names are COCO's."""

from __future__ import annotations

import pytest

from lit_simignore.benchmarks._coco_objects import ObjectReader, bundled_table
from lit_simignore.benchmarks._coco_synonyms import NEVER_RELEASED, SYNONYMS
from lit_simignore.benchmarks._lemmas import singular, tokens, words

CORRECTED = ObjectReader(bundled_table(released=False))
RELEASED = ObjectReader(bundled_table(released=True), released=True)


def test_the_table_has_cocos_80_categories_and_no_word_twice() -> None:
    assert len(SYNONYMS) == 80
    names = [name for category, others in SYNONYMS.items() for name in (category, *others)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("category", "others"), SYNONYMS.items())
def test_every_name_is_found_in_the_singular_and_in_a_sentence(category: str, others: tuple[str, ...]) -> None:
    for name in (category, *others):
        assert CORRECTED.read(f"There is a {name}, and that is all.") == [category]
        if name not in NEVER_RELEASED and len(name.split()) < 3:
            assert RELEASED.read(f"Behold: {name}!") == [category]


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Three children with umbrellas pet two sheep.", ["person", "umbrella", "sheep"]),
        ("A baby elephant near an adult giraffe.", ["elephant", "giraffe"]),
        ("A baby near an adult.", ["person", "person"]),
        ("A hot dog for the dog.", ["hot dog", "dog"]),
        ("A teddy bear and a bear.", ["teddy bear", "bear"]),
        ("His bow tie, his ties.", ["tie", "tie"]),
        ("The passenger train and a passenger.", ["train", "person"]),
        ("The toilet seat is up.", ["toilet"]),
        ("A toilet beside a seat.", ["toilet"]),
        ("A seat.", ["chair"]),
        ("Wine glasses, knives and a dog's bowl.", ["wine glass", "knife", "dog", "bowl"]),
        ("Stop. Sign here; fire. Hydrant.", ["fire hydrant"]),
        ("An orange shirt.", ["orange"]),
        ("Potted plants on a stove top oven.", ["potted plant", "oven"]),
        ("Nothing of note.", []),
        ("", []),
    ],
)
def test_captions_are_read_from_the_left_with_the_longest_names_first(caption: str, objects: list[str]) -> None:
    assert CORRECTED.read(caption) == objects


def test_slips_of_the_release_are_a_switch() -> None:
    assert CORRECTED.read("A motor bike and cheesecake on the stove top oven.") == ["motorcycle", "cake", "oven"]
    assert RELEASED.read("A motor bike and cheesecake on the stove top oven.") == ["bicycle", "oven", "oven"]
    assert CORRECTED.read("A bow on the desk.") == []
    assert RELEASED.read("A bow on the desk.") == ["tie", "dining table"]


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("people", "people"), ("children", "child"), ("knives", "knife"), ("glasses", "glass"), ("buses", "bus"),
        ("sheep", "sheep"), ("geese", "goose"), ("scissors", "scissors"), ("couches", "couch"), ("calves", "calf"),
        ("bus", "bus"), ("glass", "glass"), ("xyzzies", "xyzzy"), ("tv's", "tv's"), ("\u00fc", "\u00fc"), ("", ""),
    ],
)  # fmt: skip
def test_words_in_the_singular(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_tokens_are_words_and_marks() -> None:
    assert tokens("The dog's T-shirt, isn't it?!") == ["the", "dog", "'s", "t-shirt", ",", "isn't", "it", "?", "!"]
    assert words("The dog's T-shirt, isn't it?!") == ["the", "dog", "t-shirt", "isn't", "it"]
