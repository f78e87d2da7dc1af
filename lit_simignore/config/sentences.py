"""The help sentence of a dataclass field: its line under ``Args:`` in the class docstring, or ``metadata["help"]``."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass

_ENTRY = re.compile(r"^ {4}(\w+):\s+(.*)$")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")
_CONTINUATION = re.compile(r"^ {5,}(\S.*)$")


def sentences(cls: type) -> dict[str, str]:
    """Map the fields of ``cls``, inherited ones included, to their sentences; a subclass's sentence wins."""
    found: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        found.update(_arguments(inspect.cleandoc(ancestor.__doc__ or "")))
    if is_dataclass(cls):
        found.update({field.name: field.metadata["help"] for field in fields(cls) if "help" in field.metadata})
    return found


def first_line(cls: type) -> str:
    """The summary line of the class docstring, or nothing for the docstring that ``dataclass`` generates."""
    line = inspect.cleandoc(cls.__doc__ or "").split("\n", 1)[0]
    return "" if line.startswith(f"{cls.__name__}(") else _unmarked(line)


def _arguments(doc: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    name = ""
    for line in _args_block(doc):
        if entry := _ENTRY.match(line):
            name = entry[1]
            entries[name] = entry[2].strip()
        elif name and (more := _CONTINUATION.match(line)):
            entries[name] += " " + more[1].strip()
    return {key: _unmarked(text) for key, text in entries.items()}


def _unmarked(text: str) -> str:
    """Without the marks of reStructuredText: a terminal shows them as noise."""
    return _ROLE.sub(r"\1", text).replace("``", "")


def _args_block(doc: str) -> list[str]:
    """The indented lines below ``Args:``."""
    block: list[str] = []
    inside = False
    for line in doc.splitlines():
        if inside and line and not line.startswith(" "):
            break
        if inside:
            block.append(line)
        inside = inside or line.strip() == "Args:"
    return block
