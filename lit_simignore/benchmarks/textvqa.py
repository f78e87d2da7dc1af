"""TextVQA: questions that need the text in the image to be read.

Data: Singh et al., CVPR 2019 (arXiv:1904.08920), CC BY 4.0; validation 5000 questions. ``TextVQA_0.5.1_val.json`` with
``train_images/<image_id>.jpg`` (validation pictures are among them), fetched by the user, or the hub's
``lmms-lab/textvqa``. OCR tokens: of the row, or ``TextVQA_Rosetta_OCR_v0.2_val.json`` beside the questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row, member, objects, read_json
from lit_simignore.benchmarks._short_questions import INSTRUCTION
from lit_simignore.benchmarks._soft_answers import SoftAnswerBenchmark, human_answers, most_frequent, read_answer
from lit_simignore.benchmarks._sourced import find_files
from lit_simignore.types import Role, Sample, Segment, UserError

_SHORT_NAMES = {"validation": "val"}
_NEEDS_OCR = ("llava/1",)


def _with_tokens(question: str, tokens: Sequence[str]) -> tuple[Segment, ...]:
    return (
        Segment(question.capitalize(), Role.QUESTION),
        Segment(f"\nReference OCR token: {', '.join(tokens)}", Role.CONTEXT),
        Segment(f"\n{INSTRUCTION}", Role.TEMPLATE),
    )


def _alone(question: str, tokens: Sequence[str]) -> tuple[Segment, ...]:
    return (Segment(question.capitalize(), Role.QUESTION), Segment(f"\n{INSTRUCTION}", Role.TEMPLATE))


@dataclass(kw_only=True)
class TextVQA(SoftAnswerBenchmark):
    """Questions about text in images, scored by VQA's soft accuracy.

    Args:
        protocol: ``llava`` gives the model the text that an OCR system read (58.2 is such a number), ``lmms-eval``
            does not: numbers of the two are several points apart and often mixed up. The capital at the beginning of
            the question is lmms-eval's; LLaVA's own question file was not available to compare.
    """

    path: str = "lmms-lab/textvqa"
    split: str = "validation"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(_with_tokens, reads(read_answer)),
        "lmms-eval/1": Protocol(_alone, reads(read_answer)),
    }
    patterns: ClassVar[tuple[str, ...]] = ("TextVQA_[0-9]*_{split}.json", "**/{split}-*.parquet")
    image_folders: ClassVar[tuple[str, ...]] = ("train_images", "test_images", "images")

    def files(self) -> list[Path]:
        assert self.local is not None
        split = _SHORT_NAMES.get(self.split, self.split)
        patterns = [p.format(split=split if p.startswith("TextVQA") else self.split) for p in self.patterns]
        return find_files(self.local, patterns)

    def rows(self) -> Iterator[Row]:
        if self.local is None or self.files()[0].suffix != ".json":
            yield from super().rows()
            return
        for file in self.files():
            yield from objects(member(read_json(file), "data", file.name), file.name)

    def read(self) -> Iterator[Sample]:
        tokens = self._rosetta()
        for row in self.rows():
            image = row.need_text("image_id")
            answers = human_answers(row)
            yield Sample(
                sample_id=row.need_text("question_id"),
                segments=self.protocols[self.protocol].prompt(row.need_text("question"), self._tokens(row, tokens)),
                images=(self.picture(row.get("image") or f"{image}.jpg", row.where),),
                group_id=image,
                answer=most_frequent(answers),
                references=answers,
            )

    def _tokens(self, row: Row, rosetta: Mapping[str, Sequence[str]]) -> Sequence[str]:
        if self.protocol not in _NEEDS_OCR:
            return ()
        if row.values.get("ocr_tokens") is not None:
            return [str(token) for token in row.values["ocr_tokens"]]
        image = row.need_text("image_id")
        if image not in rosetta:
            raise UserError(
                f"{row.where}protocol {self.protocol} needs OCR tokens: expected ocr_tokens in the row, or image "
                f"{image} in TextVQA_Rosetta_OCR_v0.2_*.json beside the questions; or choose protocol=lmms-eval"
            )
        return rosetta[image]

    def _rosetta(self) -> dict[str, Sequence[str]]:
        """OCR tokens by image, from the file beside the questions if it is there."""
        if self.local is None or self.protocol not in _NEEDS_OCR:
            return {}
        found: dict[str, Sequence[str]] = {}
        for file in sorted(self.home.glob(f"TextVQA_Rosetta_OCR_*_{_SHORT_NAMES.get(self.split, self.split)}.json")):
            for row in objects(member(read_json(file), "data", file.name), file.name):
                tokens = row.values.get("ocr_tokens")
                found[row.need_text("image_id")] = [] if not tokens else row.strings("ocr_tokens")
        return found
