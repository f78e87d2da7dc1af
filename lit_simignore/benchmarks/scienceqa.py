"""ScienceQA: school science as multiple choice, the questions with a picture ("IMG") by default.

Data: Lu et al., NeurIPS 2022 (arXiv:2209.09513), CC BY-NC-SA 4.0, not bundled. Test split 4241 questions, 2017 of them
with a picture. Default prompt: LLaVA's CQM-A form. Parser and metric: the released evaluation of Simignore
(arXiv:2412.09817), which gives 65.15 % and 68.02 % on its own LLaVA-1.5-7B outputs, as Table 1 says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lit_simignore.benchmarks._choice import ChoiceBenchmark, Question, context_lines, question_of
from lit_simignore.benchmarks._letter_answers import parse_letter
from lit_simignore.benchmarks._letters import letter_segments
from lit_simignore.benchmarks._names import metric_name
from lit_simignore.benchmarks._option_answers import parse_letter_or_dotted, parse_option
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._scienceqa_sources import (
    Problem,
    find_questions,
    hub_problems,
    local_problems,
    table_problems,
)
from lit_simignore.benchmarks._sourced import find_files
from lit_simignore.metrics.accuracy import accuracy, accuracy_by_kind
from lit_simignore.types import Prediction, UserError

_LOWER_GRADES = {f"grade{number}" for number in range(1, 7)}


@dataclass(kw_only=True)
class ScienceQA(ChoiceBenchmark):
    """School science as multiple choice.

    Args:
        path: LLaVA's conversation file (``.json`` or ``.jsonl``), a folder that holds it or the authors'
            ``problems.json`` or Parquet files of the hub's, or the id of a dataset on the hub. Subjects and grades are
            in the authors' file, which may lie beside LLaVA's, and on the hub.
        images: folder of the pictures; by default found beside the questions (``images/<split>``, ``images``,
            ``<split>``, or the folder itself).
        subset: configuration of a hub dataset that has several, such as ``ScienceQA-IMG``.
        images_only: leave out questions without a picture.
        protocol: ``llava`` (``Context: ... Question: ... Options: (A) ... (B) ...``, the released parser),
            ``lmms-eval`` (options line by line, no labels; a letter alone or with a full stop) or ``lenient`` (LLaVA's
            prompt, an option named by letter or text: it recovers answers that the released rules miss).

    The released driver generates ONE token, so an answer that begins with a bracket is lost; here up to
    :attr:`max_new_tokens` are read. Set 1 in the run's settings to repeat the release.
    """

    path: str = "derek-thomas/ScienceQA"
    images_only: bool = True

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(letter_segments, reads(parse_letter)),
        "lmms-eval/1": Protocol(context_lines, reads(parse_letter_or_dotted)),
        "lenient/1": Protocol(letter_segments, parse_option),
    }
    headline: ClassVar[tuple[str, ...]] = ("img_accuracy", "circular_accuracy")
    patterns: ClassVar[tuple[str, ...]] = ("{split}-*.parquet", "*/{split}-*.parquet")
    max_new_tokens: ClassVar[int] = 16

    def files(self) -> list[Path]:
        assert self.local is not None
        try:
            questions = find_questions(self.local, self.split)
        except UserError:
            tables = [file for pattern in self.patterns for file in self.local.glob(pattern.format(split=self.split))]
            if tables:
                return sorted(tables)
            raise
        if questions.suffix == ".parquet":
            return [questions]
        beside = "pid_splits.json" if questions.name == "problems.json" else "problems.json"
        return [questions, *(find_files(questions.parent, [beside]) if questions.with_name(beside).is_file() else [])]

    def questions(self) -> Iterator[Question]:
        problems = [problem for problem in self._problems() if problem.image or not self.images_only]
        if not problems:
            raise UserError(f"{self.path} has no questions with a picture; set images_only=false to use the others")
        for problem in problems:
            self.facts[problem.problem_id] = _facts(problem)
            yield Question(
                question_id=problem.problem_id,
                text=problem.question,
                choices=problem.choices,
                answer=problem.answer,
                image=problem.image,
                # The release names one picture per question, so nothing says which are copies of one another.
                group=problem.problem_id,
                hint=problem.context,
                kind=f"{len(problem.choices)} options",
                where=problem.where,
            )

    def _problems(self) -> Iterator[Problem]:
        if self.local is None:
            return hub_problems(self.path, self.split, self.subset, self.revision)
        files = self.files()
        if files[0].suffix == ".parquet":
            return table_problems(files, self.split)
        return local_problems(files[0], self.split, Path(self.images) if self.images else None)

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """``img_accuracy``: the papers' number, right answers over questions with a picture, 0 to 1.

        By subject, grade (1 to 6, 7 to 12) and context (text, image, none) as the authors break it down, where the
        data say so. A question with text and image counts for both contexts.
        """
        with_image = [entry for entry in predictions if self.images_only or entry.num_visual_tokens > 0]
        mean = accuracy(entry.score for entry in with_image).accuracy
        found = {} if mean is None else {"img_accuracy": mean}
        scored = (
            (f"{fact}_{value}", entry.score)
            for entry in predictions
            for fact, values in self.facts.get(question_of(entry.sample_id) or entry.sample_id, {}).items()
            for value in values.split(",")
        )
        for name, (_, part) in accuracy_by_kind(scored).items():
            found |= {} if part is None else {metric_name(name): part}
        bias = {key: value for key, value in super().aggregate(predictions).items() if "options" not in key}
        return {**found, **bias}

    def identity(self) -> Mapping[str, object]:
        return {**super().identity(), "images_only": self.images_only}


def _facts(problem: Problem) -> dict[str, str]:
    """What the authors break their numbers down by."""
    found = {"context": ",".join(["text"] * bool(problem.context) + ["image"] * bool(problem.image)) or "none"}
    if problem.subject:
        found["subject"] = problem.subject
    if problem.grade:
        found["grades"] = "1_6" if problem.grade in _LOWER_GRADES else "7_12"
    return found
