"""What the browser sends is checked before anything is done with it."""

from __future__ import annotations

import pytest

from lit_simignore.explore.wish import Wish, read_settings, read_wish
from lit_simignore.types import Role, UserError

ASKED = {"image": "scene-1", "question": " What is it? "}


def test_blanks_and_empty_lines_are_left_out() -> None:
    wish = read_wish({**ASKED, "options": " red \n\n blue\n", "num_keep": 3, "prune": "fastv"})
    assert wish == Wish("scene-1", "What is it?", ("red", "blue"), "fastv", 3)


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({}, "baseline"),
        ({"prune": "fastv"}, "fastv"),
        ({"prune": "fastv", "num_keep": 0}, "fastv@0"),
        ({"prune": "fastv", "num_keep": 9, "prune_settings": "layer_idx=3 positions=renumber"},
         "fastv@layer_idx=3@positions=renumber@9"),
        ({"heads": "eah", "heads_settings": "layer_idx=2"}, "eah@layer_idx=2"),
        ({"prune": "simignore", "num_keep": 9, "heads": "eah"}, "simignore@9+eah"),
        ({"num_keep": 9, "prune_settings": "layer_idx=3"}, "baseline"),
    ],
)  # fmt: skip
def test_choices_become_a_name_in_the_grammar_of_eval(said: dict[str, object], method: str) -> None:
    assert read_wish({**ASKED, **said}).method == method


def test_options_put_the_question_as_multiple_choice() -> None:
    free = read_wish(ASKED).sample(None)
    assert [(segment.text, segment.role) for segment in free.segments] == [("What is it?", Role.QUESTION)]
    chosen = read_wish({**ASKED, "options": "red\nblue"}).sample(None)
    assert [segment.role for segment in chosen.segments] == [
        Role.CONTEXT, Role.QUESTION, Role.OPTIONS, Role.TEMPLATE
    ]  # fmt: skip
    assert chosen.segments[2].text == "Options: (A) red (B) blue\n"
    assert chosen.choices == ("red", "blue")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "expected an object"),
        ({**ASKED, "question": "  "}, "a question is needed"),
        ({"image": "scene-1"}, "a question is needed"),
        ({**ASKED, "question": "a" * 4001}, "the question has 4,001 characters"),
        ({**ASKED, "question": ["a"]}, "question must be text; got a list"),
        ({**ASKED, "model": "x"}, "unknown key 'model'"),
        ({**ASKED, "options": "red"}, "answer options are 2 to 26 different lines"),
        ({**ASKED, "options": "red\nred"}, "answer options are 2 to 26 different lines"),
        ({**ASKED, "options": "\n".join(map(str, range(27)))}, "answer options are 2 to 26 different lines"),
        ({**ASKED, "num_keep": -1}, "num_keep must be a whole number"),
        ({**ASKED, "num_keep": 2.5}, "num_keep must be a whole number"),
        ({**ASKED, "num_keep": True}, "num_keep must be a whole number"),
        ({**ASKED, "num_keep": ""}, "num_keep must be a whole number"),
        ({**ASKED, "prune": "fastv+eah"}, "expected the name of one method"),
        ({**ASKED, "prune": "a" * 81}, "expected the name of one method"),
        ({**ASKED, "prune_settings": "layer_idx"}, "settings are FIELD=value"),
        ({**ASKED, "prune_settings": "layer_idx=2@9"}, "without @ and +"),
        ({**ASKED, "flow": "everything"}, "flow must be one of none, attention, cam"),
        ({**ASKED, "heads_settings": "=2"}, "settings are FIELD=value"),
    ],
)
def test_what_cannot_be_asked_is_one_line(said: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_wish(said)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_settings_may_hold_lists_with_blanks() -> None:
    assert read_settings("layers=[1, 2, 3] text=question") == ("layers=[1, 2, 3]", "text=question")
    assert read_settings("") == ()
