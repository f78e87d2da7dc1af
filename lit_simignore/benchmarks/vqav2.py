"""VQAv2: open questions about COCO photographs, each answered by ten people.

Data: Goyal et al., CVPR 2017 (arXiv:1612.00837), CC BY 4.0; validation 214 354 questions, test-dev 107 394 without
answers. ``v2_OpenEnded_mscoco_val2014_questions.json`` and ``v2_mscoco_val2014_annotations.json`` with
``val2014/COCO_val2014_<12 digits>.jpg``, fetched by the user, or the hub's ``lmms-lab/VQAv2``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row, member, objects, read_json
from lit_simignore.benchmarks._short_questions import short
from lit_simignore.benchmarks._soft_answers import SoftAnswerBenchmark, human_answers, most_frequent, read_answer
from lit_simignore.benchmarks._sourced import find_files
from lit_simignore.types import Sample

_YEARS = {"validation": "val2014", "train": "train2014", "test": "test2015", "testdev": "test-dev2015"}
"""Official names of the hub's splits."""

_PICTURES = {"test-dev2015": "test2015"}


@dataclass(kw_only=True)
class VQAv2(SoftAnswerBenchmark):
    """Open questions, scored by VQA's soft accuracy; by type of answer (yes/no, number, other).

    Args:
        split: ``validation``, or ``testdev`` and ``test``, whose answers only the official server knows: the outputs
            are then written without a score.
        protocol: ``llava`` (LLaVA's and lmms-eval's prompt; the answer in VQA's normal form).

    The official code skips the normal form where all ten people agree; here both sides are always normalised, as
    LLaVA does before it hands answers in.
    """

    path: str = "lmms-lab/VQAv2"
    split: str = "validation"

    protocols: ClassVar[Mapping[str, Protocol]] = {"llava/1": Protocol(short, reads(read_answer))}
    headline: ClassVar[tuple[str, ...]] = ("yes_no_accuracy", "number_accuracy", "other_accuracy")
    patterns: ClassVar[tuple[str, ...]] = ("v2_OpenEnded_mscoco_{split}_questions.json", "**/{split}-*.parquet")

    @property
    def _official_split(self) -> str:
        return _YEARS.get(self.split, self.split)

    def files(self) -> list[Path]:
        """The questions, and the annotations where they are."""
        assert self.local is not None
        names = [p.format(split=self._official_split if p.startswith("v2") else self.split) for p in self.patterns]
        found = find_files(self.local, names)
        if found[0].suffix == ".json":
            known = self.home / f"v2_mscoco_{self._official_split}_annotations.json"
            return [found[0], *([known] if known.is_file() else [])]
        return found

    def rows(self) -> Iterator[Row]:
        if self.local is None or self.files()[0].suffix != ".json":
            yield from super().rows()
            return
        questions, *annotations = self.files()
        known: dict[Any, Mapping[str, Any]] = {}
        for file in annotations:
            for row in objects(member(read_json(file), "annotations", file.name), file.name):
                known[row.need("question_id")] = row.values
        for row in objects(member(read_json(questions), "questions", questions.name), questions.name):
            yield Row(row.where, {**row.values, **known.get(row.need("question_id"), {})})

    def read(self) -> Iterator[Sample]:
        year = _PICTURES.get(self._official_split, self._official_split)
        for row in self.rows():
            image, answers = row.need_text("image_id"), human_answers(row)
            named = f"{year}/COCO_{year}_{image.zfill(12)}.jpg"
            yield Sample(
                sample_id=row.need_text("question_id"),
                segments=self.protocols[self.protocol].prompt(row.need_text("question")),
                images=(self.picture(row.get("image") or named, row.where),),
                group_id=image,
                answer=most_frequent(answers),
                references=answers,
                kind=row.text("answer_type"),
            )
