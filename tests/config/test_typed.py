"""Plain values become typed ones, or one line that names the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from lit_simignore.config.sentences import first_line, sentences
from lit_simignore.config.typed import ConfigError, build, convert, defaults, describe, parse, plain


class Color(str, Enum):
    RED = "dark-red"
    NONE = "none"


@dataclass(kw_only=True)
class Inner:
    """An inner section.

    Args:
        size: how large it is, on
            two lines.
    """

    size: int = 3


@dataclass(kw_only=True)
class Outer:
    """An outer section, see :class:`~some.where.Inner` and ``code``.

    Args:
        path: where it is.
        inner: what is in it.
    """

    path: str
    inner: Inner = field(default_factory=Inner)
    ratio: float | None = field(default=None, metadata={"help": "from the metadata"})
    layers: int | Sequence[int] = 2
    color: Color = Color.RED
    _hidden: int = 0

    def __post_init__(self) -> None:
        if self.ratio is not None and self.ratio > 1:
            raise ValueError(f"ratio must be at most 1;\n got {self.ratio}")


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("3", int, 3),
        (3.0, int, 3),
        ("1e3", int, 1000),
        ("-2", int, -2),
        (3, float, 3.0),
        ("1e-3", float, 0.001),
        ("yes", bool, True),
        ("false", bool, False),
        ("007", str, "007"),
        ("1e5", str, "1e5"),
        ("true", str, "true"),
        ("[a", str | None, "[a"),
        ("a: b", str | None, "a: b"),
        ("12", str | None, "12"),
        ("null", str | None, None),
        ("None", int | None, None),
        (None, float | None, None),
        ("8", int | str, 8),
        ("auto", int | list[int] | str, "auto"),
        ("[0,2]", int | list[int] | str, [0, 2]),
        ("[1,2]", int | Sequence[int], [1, 2]),
        ("5", int | Sequence[int], 5),
        ("a,b", list[str], ["a", "b"]),
        ("a", list[str], ["a"]),
        ("[x@n=1,y+z]", list[str], ["x@n=1", "y+z"]),
        (64, list[int], [64]),
        ("[0.5, 1]", tuple[float, ...], (0.5, 1.0)),
        ([1, 2], tuple[int, int], (1, 2)),
        ("dark-red", Color, Color.RED),
        ("red", Color, Color.RED),
        ("none", Color, Color.NONE),
        ("b", Literal["a", "b"], "b"),
        ("{a: 1}", dict[str, int], {"a": 1}),
        ("7", Any, "7"),
        ("x/y", Path, Path("x/y")),
        ({"size": "4"}, Inner, Inner(size=4)),
    ],
)
def test_a_value_becomes_what_the_annotation_says(value: object, hint: Any, expected: object) -> None:
    found = convert(value, hint, "key")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        ("x", int, "expected an integer, got 'x'"),
        (True, int, "expected an integer, got True (bool)"),
        ("3.5", int, "expected an integer, got '3.5'"),
        (3, str, "expected text, got 3 (int); put it in quotes"),
        (None, str, "expected text, got None (NoneType)"),
        ("null", int, "expected an integer, got None (NoneType)"),
        ("1", bool, "expected true or false"),
        ("blue", Color, "expected one of dark-red, none, got 'blue'"),
        ([1, 2, 3], tuple[int, int], "expected a list [an integer, an integer]"),
        ("3", Inner, "expected a section of size, got '3'"),
        ("[1", list[int], "close its brackets"),
        (["a"], list[int], "key[0]: expected an integer, got 'a'"),
        ({"a": "b"}, dict[str, int], "key.a: expected an integer"),
        ("c", Literal["a", "b"], "expected one of a, b"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_and_expectation(value: object, hint: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(value, hint, "key")
    assert words in str(caught.value)
    assert str(caught.value).startswith("key")
    assert "\n" not in str(caught.value)


def test_unknown_missing_and_refused_values_name_their_dotted_key() -> None:
    with pytest.raises(ConfigError, match=r"outer\.inner\.sizes: unknown key; did you mean 'size'\?"):
        build(Outer, {"path": "p", "inner": {"sizes": 1}}, "outer")
    with pytest.raises(ConfigError, match=r"outer\.path: a value is needed \(text\): where it is\."):
        build(Outer, {}, "outer")
    with pytest.raises(ConfigError, match=r"^outer: ratio must be at most 1; got 2\.0$"):
        build(Outer, {"path": "p", "ratio": 2}, "outer")
    with pytest.raises(ConfigError, match="unknown key"):
        build(Outer, {"path": "p", "_hidden": 1}, "outer")


def test_plain_values_build_the_same_object_again() -> None:
    one = build(Outer, {"path": "p", "inner": {"size": 5}, "layers": [1, 2], "color": "none"})
    assert plain(one) == {"path": "p", "inner": {"size": 5}, "ratio": None, "layers": [1, 2], "color": "none"}
    assert build(Outer, plain(one)) == one


def test_defaults_leave_out_what_needs_a_value() -> None:
    assert defaults(Outer) == {"inner": {"size": 3}, "ratio": None, "layers": 2, "color": "dark-red"}


def test_sentences_come_from_the_docstring_or_the_metadata() -> None:
    assert sentences(Inner) == {"size": "how large it is, on two lines."}
    assert sentences(Outer)["ratio"] == "from the metadata"
    assert first_line(Outer) == "An outer section, see Inner and code."

    @dataclass
    class Silent:
        size: int = 0

    assert first_line(Silent) == ""


def test_yaml_cannot_make_an_object() -> None:
    for text in ("!!python/object/apply:os.getpid []", "!!python/name:os.system"):
        with pytest.raises(ConfigError):
            parse(text, "key")


def test_annotations_read_as_words() -> None:
    assert describe(int | list[int] | None) == "an integer or a list [an integer] or null"
    assert describe(float | None) == "a number or null"
