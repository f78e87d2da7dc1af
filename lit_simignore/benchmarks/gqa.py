"""GQA: compositional questions made from scene graphs, with one answer of a word or two.

Data: Hudson & Manning, CVPR 2019 (arXiv:1902.09506), CC BY 4.0; balanced test-dev 12 578 questions.
``testdev_balanced_questions.json`` with ``images/<imageId>.jpg``, fetched by the user, or the hub's ``lmms-lab/GQA``,
whose pictures are a configuration of their own.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lit_simignore.benchmarks._choice import by_kind
from lit_simignore.benchmarks._hub import hub_rows, parquet_rows
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row, read_json
from lit_simignore.benchmarks._short_questions import short
from lit_simignore.benchmarks._sourced import SourcedBenchmark, find_files
from lit_simignore.metrics.accuracy import accuracy
from lit_simignore.types import Prediction, Sample, UserError

_BINARY = ("verify", "choose", "logical")
"""Structural types whose answer is one of two; of a choice, one of the two that the question names."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def _read_llava(output: str) -> str | None:
    return output.rstrip(".").lower() or None


def _read_lmms_eval(output: str) -> str | None:
    return _PUNCTUATION.sub("", output.lower()) or None


@dataclass(kw_only=True)
class GQA(SourcedBenchmark):
    """Compositional questions, exact match; by structural type, and open against binary.

    Args:
        subset: configuration of the hub's dataset with the questions, or the folder of its Parquet files.
        protocol: ``llava`` (full stops at the end dropped, small letters) or ``lmms-eval`` (all ASCII punctuation
            dropped, also in the middle; small letters).

    GQA's other metrics (consistency, validity, plausibility, distribution) need its scene graphs and are left out.
    """

    path: str = "lmms-lab/GQA"
    split: str = "testdev"
    subset: str | None = "testdev_balanced_instructions"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(short, reads(_read_llava)),
        "lmms-eval/1": Protocol(short, reads(_read_lmms_eval)),
    }
    headline: ClassVar[tuple[str, ...]] = ("open_accuracy", "binary_accuracy")
    patterns: ClassVar[tuple[str, ...]] = ("{split}_balanced_questions.json", "{subset}/{split}-*.parquet")
    image_folders: ClassVar[tuple[str, ...]] = ("images", "../images")
    max_new_tokens: ClassVar[int] = 16

    def rows(self) -> Iterator[Row]:
        if self.local is None or self.files()[0].suffix != ".json":
            pictures = {str(row["id"]): row["image"] for row in self._pictures()}
            for row in super().rows():
                image = row.need_text("imageId")
                if image not in pictures:
                    raise UserError(f"{row.where}picture {image!r} is not among the {len(pictures)} pictures")
                yield Row(row.where, {"question_id": row.need_text("id"), **row.values, "image": pictures[image]})
            return
        for file in self.files():
            questions = read_json(file)
            if not isinstance(questions, dict):
                raise UserError(f"{file.name}: expected questions by id; got a {type(questions).__name__}")
            for question_id, values in questions.items():
                where = f"{file.name}, question {question_id}: "
                if not isinstance(values, dict):
                    raise UserError(f"{where}expected an object; got a {type(values).__name__}")
                yield Row(where, {**values, "question_id": question_id})

    def _pictures(self) -> Iterator[Mapping[str, Any]]:
        """Rows of the configuration that holds the pictures of :attr:`subset`."""
        name = (self.subset or "").replace("_instructions", "_images")
        if self.local is None:
            return hub_rows(self.path, split=self.split, subset=name, revision=self.revision)
        return parquet_rows(find_files(self.local, [f"{name}/{self.split}-*.parquet"]))

    def read(self) -> Iterator[Sample]:
        parse = self.protocols[self.protocol].parse
        for row in self.rows():
            image, answer = row.need_text("imageId"), row.text("answer")
            types = row.values.get("types")
            sample = Sample(
                sample_id=row.need_text("question_id"),
                segments=self.protocols[self.protocol].prompt(row.need_text("question")),
                images=(self.picture(row.get("image") or f"{image}.jpg", row.where),),
                group_id=image,
                kind=str(types.get("structural") or "") if isinstance(types, Mapping) else "",
            )
            yield replace(sample, answer=parse(answer, sample))

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Accuracy by structural type, and of open and binary questions."""
        found = by_kind(predictions)
        known = [entry for entry in predictions if entry.kind]
        for name, wanted in (("open", False), ("binary", True)):
            mean = accuracy(entry.score for entry in known if (entry.kind in _BINARY) is wanted).accuracy
            found |= {} if mean is None else {f"{name}_accuracy": mean}
        return found
