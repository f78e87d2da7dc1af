"""ScienceQA: school science as multiple choice, the questions with a picture ("IMG") by default.

Data: Lu et al., NeurIPS 2022 (arXiv:2209.09513), CC BY-NC-SA 4.0, not bundled. Test split 4241 questions, 2017 of them
with a picture. Prompt: LLaVA's CQM-A form. Parser and metric: the released evaluation of Simignore (arXiv:2412.09817),
which gives 65.15 % and 68.02 % on its own LLaVA-1.5-7B outputs, as Table 1 says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lit_simignore.benchmarks._hub import is_hub_id
from lit_simignore.benchmarks._letter_answers import parse_letter
from lit_simignore.benchmarks._letters import letter_segments
from lit_simignore.benchmarks._scienceqa_sources import Problem, find_questions, hub_problems, local_problems
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.metrics.accuracy import accuracy
from lit_simignore.types import Prediction, Sample, UserError


@dataclass(kw_only=True)
class ScienceQA(Benchmark):
    """ScienceQA with LLaVA's prompt.

    Args:
        path: LLaVA's conversation file (``.json`` or ``.jsonl``), a folder that holds it or the authors'
            ``problems.json``, or the id of a dataset on the hub (needs the package ``datasets``).
        images: folder of the pictures; by default found beside the questions (``images/<split>``, ``images``,
            ``<split>``, or the folder itself).
        split: which split; a conversation file holds only one.
        subset: configuration of a hub dataset that has several, such as ``ScienceQA-IMG``.
        revision: commit of a hub dataset; unset follows its main branch.
        images_only: leave out questions without a picture.

    Answers are letters. The released driver generates ONE token, so an answer that begins with a bracket is lost;
    here up to :attr:`max_new_tokens` are read. Set 1 in the run's settings to repeat the release.
    """

    path: str = "derek-thomas/ScienceQA"
    images: str | None = None
    split: str = "test"
    subset: str | None = None
    revision: str | None = None
    images_only: bool = True

    protocol: ClassVar[str] = "scienceqa-cqm-a/1"
    max_new_tokens: ClassVar[int] = 16

    def load(self) -> Sequence[Sample]:
        """All samples, in the order of the file.

        Raises:
            UserError: nothing at ``path``, a question that cannot be understood, or an id that occurs twice.
        """
        samples = [_sample(problem) for problem in self._problems() if problem.image or not self.images_only]
        if not samples:
            raise UserError(f"{self.path} has no questions with a picture; set images_only=false to use the others")
        seen: set[str] = set()
        for sample in samples:
            if sample.sample_id in seen:
                raise UserError(f"{self.path}: question id {sample.sample_id!r} occurs more than once")
            seen.add(sample.sample_id)
        return samples[: self.limit]

    def parse(self, output: str, sample: Sample) -> str | None:
        """The letter that the output names, even one beyond the sample's options, or ``None``."""
        return parse_letter(output)

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """1 for the right letter. A letter beyond the options is wrong, for the right one always lies within them."""
        return None if sample.answer is None else float(parsed == sample.answer)

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """``img_accuracy``: the papers' number, right answers over questions with a picture, 0 to 1."""
        with_image = [entry for entry in predictions if self.images_only or entry.num_visual_tokens > 0]
        mean = accuracy(entry.score for entry in with_image).accuracy
        return {} if mean is None else {"img_accuracy": mean}

    def identity(self) -> Mapping[str, object]:
        """Local data by its content, so that a moved file is the same data; the hub by name and revision."""
        source: dict[str, object] = {"path": self.path, "subset": self.subset, "revision": self.revision}
        if self._local() is not None:
            questions = find_questions(Path(self.path), self.split)
            source = {"sha256": hashlib.sha256(questions.read_bytes()).hexdigest()}
        return {"protocol": self.protocol, "split": self.split, "images_only": self.images_only, **source}

    def _local(self) -> Path | None:
        path = Path(self.path)
        if path.exists():
            return path
        if is_hub_id(self.path):
            return None
        raise UserError(f"expected a file, a folder or a hub id owner/name as path; nothing is at {self.path!r}")

    def _problems(self) -> Iterator[Problem]:
        local = self._local()
        if local is None:
            return hub_problems(self.path, self.split, self.subset, self.revision)
        images = Path(self.images) if self.images else None
        return local_problems(find_questions(local, self.split), self.split, images)


def _sample(problem: Problem) -> Sample:
    return Sample(
        sample_id=problem.problem_id,
        segments=letter_segments(problem.question, problem.choices, problem.context),
        images=() if problem.image is None else (problem.image,),
        # The release names one picture per question, so nothing says which pictures are copies of one another.
        group_id=problem.problem_id,
        choices=problem.choices,
        answer=problem.answer,
        kind=f"{len(problem.choices)} options",
    )
