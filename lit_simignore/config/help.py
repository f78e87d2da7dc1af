"""``--help``: every key with its sentence, type and default, read off the dataclasses; every choice of every group."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, cast

from lit_simignore.config import folders
from lit_simignore.config.schema import GROUPS
from lit_simignore.config.sentences import first_line, sentences
from lit_simignore.config.typed import configurable, defaults, describe, hints, is_required, join

_WIDTH = 110
_INDENT = " " * 6


def render_help(schema: type, usage: str, extensions: Mapping[str, Mapping[str, type]]) -> str:
    """The whole help text.

    Args:
        schema: the dataclass of the command's keys.
        usage: opening lines: what the command does, examples, flags.
        extensions: headline to scanned classes by name (pruners, interventions, benchmarks).
    """
    blocks = [usage.strip(), "CHOICES", "\n".join(_choices(schema)), "KEYS", *_keys(schema, "")]
    for headline, classes in extensions.items():
        if classes:
            blocks += [headline, *(_extension(name, cls) for name, cls in classes.items())]
    return "\n\n".join(blocks) + "\n"


def _choices(schema: type) -> Iterator[str]:
    groups = [*(group for group in GROUPS if group in hints(schema) and group != "benchmark"), "method"]
    for group in groups:
        if group in hints(schema):
            yield _wrapped(f"  {'methods' if group == 'method' else group}= {', '.join(folders.options(group))}")
    if "experiment" in hints(schema):
        yield _wrapped(f"  experiment= {', '.join(folders.experiments()) or '(none here)'}")
        for model, names in folders.variants().items():
            yield _wrapped(f"  experiment= with model={model}, scaled to it: {', '.join(names)}")


def _keys(cls: type, where: str) -> Iterator[str]:
    """One block per section: its headline and its keys; nested sections after it."""
    nested = {name: cast(type, hint) for name, hint in hints(cls).items() if is_dataclass(hint)}
    entries = [_entry(cls, name, where) for name in hints(cls) if name not in nested]
    yield "\n".join([f"{where}: {first_line(cls)}" if where else first_line(cls), *entries])
    for name, section in nested.items():
        yield from _keys(section, join(where, name))


def _entry(cls: type, name: str, where: str) -> str:
    field = next(field for field in configurable(cls) if field.name == name)
    default = "needs a value" if is_required(field) else f"default {_shown(defaults(cls)[name])}"
    head = f"  {join(where, name)}  [{describe(hints(cls)[name])}; {default}]"
    return f"{head}\n{_wrapped(sentences(cls).get(name, ''), _INDENT)}".rstrip()


def _extension(name: str, cls: type) -> str:
    return "\n".join([_wrapped(f"{name}: {first_line(cls)}"), *(_entry(cls, field, "") for field in hints(cls))])


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=_INDENT, break_on_hyphens=False)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
