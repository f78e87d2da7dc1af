from __future__ import annotations

import pytest

from lit_simignore.benchmarks._yes_no import parse_pope_official, parse_pope_opera, parse_yes_no


@pytest.mark.parametrize(
    ("output", "official", "opera", "strict"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("No", "no", "no", "no"),
        ("no", "no", "no", "no"),
        ("No, there is none.", "no", "no", "no"),
        ("There is not a dog.", "no", "no", None),
        ("NO", "yes", "no", "no"),
        ("There isn't one.", "yes", "no", None),
        ("There isn\u2019t one.", "yes", "yes", None),
        ("Yes. There is no doubt.", "yes", "no", "yes"),
        ("Yes, there is no doubt", "no", "no", "yes"),
        ("Nope", "yes", "yes", None),
        ("NO!", "yes", "yes", "no"),
        ("None", "yes", "yes", None),
        ("cannot", "yes", "yes", None),
        ("No\n\nbecause", "yes", "yes", "no"),
        ("", "yes", "yes", None),
        ("\0\u202e", "yes", "yes", None),
    ],
)
def test_every_protocol_keeps_its_quirks(output: str, official: str, opera: str, strict: str | None) -> None:
    assert parse_pope_official(output) == official
    assert parse_pope_opera(output) == opera
    assert parse_yes_no(output) == strict
