"""A prompt and a parser that belong together, under a name and a version that the user chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lit_simignore.discovery import nearest
from lit_simignore.types import Sample, Segment, UserError


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a question is put and how an answer is read.

    Args:
        prompt: from what the benchmark knows about a question to the user's message.
        parse: from an output and its sample to the answer in the benchmark's own form; ``None`` for no answer. Never
            raises.
    """

    prompt: Callable[..., tuple[Segment, ...]]
    parse: Callable[[str, Sample], str | None]


def full_name(asked: str, known: Mapping[str, Any]) -> str:
    """``llava/1`` for ``llava/1``, and for ``llava`` if 1 is the newest version of it.

    Raises:
        UserError: there is no such protocol.
    """
    if asked in known:
        return asked
    versions = [name for name in known if name.rpartition("/")[0] == asked]
    if not versions:
        raise UserError(f"unknown benchmark.protocol {asked!r}; {nearest(asked, known)} (valid: {', '.join(known)})")
    return max(versions, key=lambda name: int(name.rpartition("/")[2]))


def reads(parse: Callable[[str], str | None]) -> Callable[[str, Sample], str | None]:
    """A parser that needs nothing but the output, as one that is handed the sample too."""
    return lambda output, _: parse(output)
