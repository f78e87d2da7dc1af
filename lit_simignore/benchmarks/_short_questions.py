"""Prompts of questions that are answered with yes, no, a word or a phrase."""

from __future__ import annotations

from lit_simignore.types import Role, Segment

INSTRUCTION = "Answer the question using a single word or phrase."


def bare(question: str) -> tuple[Segment, ...]:
    """The question and nothing else."""
    return (Segment(question, Role.QUESTION),)


def short(question: str) -> tuple[Segment, ...]:
    """The question and, on the next line, LLaVA's instruction to be brief."""
    return (Segment(question, Role.QUESTION), Segment(f"\n{INSTRUCTION}", Role.TEMPLATE))
