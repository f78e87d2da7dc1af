"""Which option a free text names: the rules of the released ScienceQA evaluation, in their order."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from lit_simignore.benchmarks._letters import LETTERS


class _Rules(NamedTuple):
    openings: tuple[re.Pattern[str], ...]
    once: tuple[re.Pattern[str], ...]
    anywhere: re.Pattern[str]


@cache
def _rules(num_letters: int) -> _Rules:
    option = f"[A-{LETTERS[num_letters - 1]}]"
    return _Rules(
        openings=(
            re.compile(rf"({option})\Z"),
            re.compile(rf"({option})\. "),
            re.compile(rf"\(({option})\)"),
            re.compile(rf"({option})\)"),
            re.compile(rf"The correct answer is \(({option})"),
        ),
        # The dot of the first is a wildcard in the release, and its letter may be any.
        once=(re.compile(r"The answer is ([A-Z])."), re.compile(rf"\(({option})\)")),
        anywhere=re.compile(rf"The correct answer is \(({option})\)"),
    )


def parse_letter(output: str, num_letters: int = 5) -> str | None:
    """The option letter that ``output`` names, or ``None``; it may lie beyond the options that the sample has.

    In order: the letter alone; ``X. ``, ``(X)``, ``X)`` or ``The correct answer is (X`` at the start; ``The answer is
    X.`` exactly once; ``(X)`` exactly once; ``The correct answer is (X)`` anywhere. White space around the output is
    dropped first, as the released driver does before it saves an answer.

    Args:
        output: what the model said.
        num_letters: how many letters are options at all; the release knows A to E whatever the sample offers.

    Source: the ScienceQA evaluation that Simignore releases (an extension of LLaVA's).
    """
    text, rules = output.strip(), _rules(num_letters)
    for pattern in rules.openings:
        if match := pattern.match(text):
            return match.group(1)
    for pattern in rules.once:
        found = pattern.findall(text)
        if len(found) == 1:
            return str(found[0])
    match = rules.anywhere.search(text)
    return match.group(1) if match else None
