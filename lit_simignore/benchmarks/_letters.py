"""ScienceQA's multiple-choice prompt as LLaVA asks it (the CQM-A form), as segments with roles."""

from __future__ import annotations

from collections.abc import Sequence

from lit_simignore.types import Role, Segment

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NO_CONTEXT = "N/A"
INSTRUCTION = "Answer with the option's letter from the given choices directly."


def letter_segments(question: str, choices: Sequence[str], context: str = "") -> tuple[Segment, ...]:
    """``Context: ...`` / ``Question: ...`` / ``Options: (A) ... (B) ...`` / the instruction, one line each.

    The labels ``Context:``, ``Question:`` and ``Options:`` carry the role of the line that they open, as in the
    released code's span of the options.
    """
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return (
        Segment(f"Context: {context or NO_CONTEXT}\n", Role.CONTEXT),
        Segment(f"Question: {question}\n", Role.QUESTION),
        Segment(f"Options: {options}\n", Role.OPTIONS),
        Segment(INSTRUCTION, Role.TEMPLATE),
    )
