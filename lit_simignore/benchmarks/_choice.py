"""What benchmarks of multiple-choice questions share: prompts, options in every order, and the bias of letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lit_simignore.benchmarks._letters import INSTRUCTION, LETTERS
from lit_simignore.benchmarks._names import metric_name
from lit_simignore.benchmarks._scoring import Scoring, option_candidates
from lit_simignore.benchmarks._sourced import SourcedBenchmark
from lit_simignore.metrics.accuracy import accuracy_by_kind
from lit_simignore.metrics.options import circular_accuracy, letter_bias
from lit_simignore.types import Candidates, ImageSource, Prediction, Role, Sample, Segment, UserError

ORDER_MARK = "~"
"""Between the id of a question and the number of places by which its options were moved."""


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question, whatever file it came from.

    Args:
        question_id: unique.
        text: the question alone.
        choices: texts of the options, without letters.
        answer: letter of the right one; ``None`` where it is secret.
        image: its picture, if it has one.
        group: name of the picture.
        hint: shown with it; empty for none.
        kind: for break-downs.
        moved: by how many places the data itself has moved the options.
        where: its place, for messages.
    """

    question_id: str
    text: str
    choices: tuple[str, ...]
    answer: str | None
    image: ImageSource | None
    group: str
    hint: str = ""
    kind: str = ""
    moved: int | None = None
    where: str = ""

    def __post_init__(self) -> None:
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise UserError(f"{self.where}expected 2 to {len(LETTERS)} options; got {len(self.choices)}")
        if self.answer is not None and self.answer not in LETTERS[: len(self.choices)]:
            raise UserError(f"{self.where}the answer {self.answer} is not among the {len(self.choices)} options")

    def rotated(self, places: int) -> Question:
        """The same with the options moved to the left by ``places``, the first ones to the end."""
        choices = self.choices[places:] + self.choices[:places]
        answer = self.answer
        if answer is not None:
            answer = LETTERS[(LETTERS.index(answer) - places) % len(choices)]
        return replace(self, choices=choices, answer=answer, moved=places)


@dataclass(kw_only=True)
class ChoiceBenchmark(SourcedBenchmark):
    """Base of the benchmarks of multiple-choice questions.

    Args:
        scoring: ``generate`` an answer and parse it; or take the most likely option without parsing: ``likelihood`` of
            its letter, ``likelihood-text`` of its text (sum over its tokens), ``likelihood-text-mean`` (per token; long
            options are then not at a disadvantage).
        circular: ask every question once for each of its options, which move one place to the left each time. The
            accuracy is then over all orders, ``circular_accuracy`` over questions that are right in every one; both
            are free of a liking for a letter.
    """

    scoring: Scoring = Scoring.GENERATE
    circular: bool = False

    headline: ClassVar[tuple[str, ...]] = ("circular_accuracy",)

    def read(self) -> Iterator[Sample]:
        for question in self.questions():
            orders = range(len(question.choices)) if self.circular else (0,)
            if self.circular and question.moved is not None:
                raise UserError(f"{question.where}these data have every order of the options already; circular=false")
            for places in orders:
                yield self._sample(question.rotated(places) if self.circular else question)

    def questions(self) -> Iterator[Question]:
        """The questions, one by one."""
        raise NotImplementedError

    def _sample(self, question: Question) -> Sample:
        suffix = "" if question.moved is None else f"{ORDER_MARK}{question.moved}"
        return Sample(
            sample_id=f"{question.question_id}{suffix}",
            segments=self.protocols[self.protocol].prompt(question.text, question.choices, question.hint),
            images=() if question.image is None else (question.image,),
            group_id=question.group,
            choices=question.choices,
            answer=question.answer,
            kind=question.kind,
        )

    def candidates(self, sample: Sample) -> Candidates | None:
        """The options' letters or texts, by their letters; ``None`` if the model is to write its answer."""
        return option_candidates(self.scoring, sample.choices)

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Accuracy by kind, the bias of letters and, where several orders were asked, the circular accuracy."""
        found = by_kind(predictions)
        bias = letter_bias([(entry.parsed, entry.answer) for entry in predictions if entry.answer is not None])
        if bias is not None:
            found |= {"letter_shift": bias.shift, "letter_recall_std": bias.recall_std}
        ordered = [(question, entry.score) for entry in predictions if (question := question_of(entry.sample_id))]
        circular = circular_accuracy(ordered)
        return found if circular is None else {**found, "circular_accuracy": circular}

    def identity(self) -> Mapping[str, object]:
        return {**super().identity(), "circular": self.circular, "scoring": self.scoring.value}


def question_of(sample_id: str) -> str:
    """The question of a sample that was asked in several orders; empty for any other sample."""
    question, _, places = sample_id.rpartition(ORDER_MARK)
    return question if places.isdigit() else ""


def by_kind(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean score of every kind, under the kind's name."""
    kinds = accuracy_by_kind((entry.kind, entry.score) for entry in predictions)
    return {metric_name(kind, "accuracy"): mean for kind, (_, mean) in kinds.items() if mean is not None}


def lines(question: str, choices: Sequence[str], hint: str = "") -> tuple[Segment, ...]:
    """LLaVA's form: the hint, the question, ``A. ...`` line by line, the instruction."""
    return _parts(f"{hint}\n" if hint else "", question, "\n" + _dotted(choices) + "\n", INSTRUCTION)


def announced_lines(question: str, choices: Sequence[str], hint: str = "") -> tuple[Segment, ...]:
    """The form of lmms-eval's MMBench: hint and question on one line, and a sentence before the options."""
    options = f" There are several options:\n{_dotted(choices)}\n\n"
    return _parts(f"{hint} " if hint else "", question, options, INSTRUCTION)


def context_lines(question: str, choices: Sequence[str], hint: str = "") -> tuple[Segment, ...]:
    """The form of lmms-eval's ScienceQA."""
    return _parts(f"Context: {hint}\n" if hint else "", question, "\n" + _dotted(choices) + "\n", INSTRUCTION)


def as_asked(question: str, choices: Sequence[str], hint: str = "") -> tuple[Segment, ...]:
    """MMStar's own form: the question, ``Options: A: ..., B: ...`` on the next line, nothing else."""
    options = ", ".join(f"{letter}: {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return _parts(f"{hint}\n" if hint else "", question, f"\nOptions: {options}", "")


def as_asked_directly(question: str, choices: Sequence[str], hint: str = "") -> tuple[Segment, ...]:
    """The same with the instruction to answer with a letter, which lmms-eval writes without a full stop there."""
    return (*as_asked(question, choices, hint), Segment("\n" + INSTRUCTION.rstrip("."), Role.TEMPLATE))


def _dotted(choices: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _parts(context: str, question: str, options: str, instruction: str) -> tuple[Segment, ...]:
    parts = (
        Segment(context, Role.CONTEXT),
        Segment(question, Role.QUESTION),
        Segment(options, Role.OPTIONS),
        Segment(instruction, Role.TEMPLATE),
    )
    return tuple(part for part in parts if part.text)
