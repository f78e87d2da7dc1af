"""POPE: is an object in the image? Half of the questions about objects that are not.

Data: Li et al., EMNLP 2023 (arXiv:2305.10355), on COCO val2014; random 2910 questions (1500 yes), popular and
adversarial 3000 (1500 yes). Questions as released, JSON lines ``<source>_pope_<split>.json``; the misspelling "imange"
in them is kept. Pictures: COCO val2014, to be fetched by the user, or the hub's ``lmms-lab/POPE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lit_simignore.benchmarks._names import metric_name
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row, read_rows
from lit_simignore.benchmarks._short_questions import bare, short
from lit_simignore.benchmarks._sourced import SourcedBenchmark
from lit_simignore.benchmarks._yes_no import (
    parse_exact_yes_no,
    parse_pope_official,
    parse_pope_opera,
    parse_yes_no,
)
from lit_simignore.metrics.hallucination import count_yes_no, yes_no_scores
from lit_simignore.types import Prediction, Sample, UserError

SPLITS = ("random", "popular", "adversarial")
_FILE = re.compile(r"(?P<source>.+)_pope_(?P<split>[a-z]+)")


@dataclass(kw_only=True)
class POPE(SourcedBenchmark):
    """Yes-or-no questions about objects.

    Args:
        splits: which of ``random``, ``popular``, ``adversarial``; of a single file, its own.
        source: beginning of the files' names, for the versions on other pictures (``aokvqa``, ``gqa``).
        protocol: ``llava`` (its instruction, POPE's own parser), ``pope`` (the bare question, the same parser),
            ``opera`` (the bare question, OPERA's parser, which EAH and LLaVA-CAM use), ``lmms-eval`` (the instruction;
            only "yes" and "no" count) or ``strict`` (the instruction; the first word that is yes or no).

    The first three parsers take whatever is no "no" for a "yes". Under the other two an answer may be neither: it is
    wrong, and counts as missed where yes is right. (lmms-eval leaves it out of its recall; otherwise the numbers agree.
    Its "yes ratio" is that of the labels; here it is that of the answers.)
    """

    path: str = "lmms-lab/POPE"
    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    source: str = "coco"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(short, reads(parse_pope_official)),
        "pope/1": Protocol(bare, reads(parse_pope_official)),
        "opera/1": Protocol(bare, reads(parse_pope_opera)),
        "lmms-eval/1": Protocol(short, reads(parse_exact_yes_no)),
        "strict/1": Protocol(short, reads(parse_yes_no)),
    }
    headline: ClassVar[tuple[str, ...]] = ("mean_f1", "random_f1", "popular_f1", "adversarial_f1")
    patterns: ClassVar[tuple[str, ...]] = ("{source}_pope_*.json", "**/{split}-*.parquet", "*.parquet")
    image_folders: ClassVar[tuple[str, ...]] = ("images", "val2014", "images/val2014", "../val2014", "../images")
    max_new_tokens: ClassVar[int] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.splits or not set(self.splits) <= set(SPLITS):
            raise UserError(f"benchmark.splits must be some of {', '.join(SPLITS)}; got {self.splits}")

    def files(self) -> list[Path]:
        found = super().files()
        if self.local is not None and self.local.is_file():
            return found
        named = {match["split"]: file for file in found if (match := _FILE.fullmatch(file.stem))}
        missing = [split for split in self.splits if split not in named]
        if named and missing:
            raise UserError(f"expected {self.source}_pope_{missing[0]}.json in {self.path}; it is not there")
        return [named[split] for split in self.splits] if named else found

    def read(self) -> Iterator[Sample]:
        files = [] if self.local is None else self.files()
        if not files or files[0].suffix == ".parquet":
            yield from (self._sample(row, row.need_text("category").lower()) for row in self.rows() if self._asked(row))
            return
        for file in files:
            match = _FILE.fullmatch(file.stem)
            yield from (self._sample(row, match["split"] if match else file.stem) for row in read_rows(file))

    def _asked(self, row: Row) -> bool:
        return row.need_text("category").lower() in self.splits

    def _sample(self, row: Row, split: str) -> Sample:
        image = row.need("image")
        name = image if isinstance(image, str) else row.need_text("image_source")
        return Sample(
            sample_id=f"{split}-{row.need_text('question_id', 'id')}",
            segments=self.protocols[self.protocol].prompt(row.need_text("text", "question")),
            images=(self.picture(image, row.where),),
            group_id=Path(name).stem,
            answer=row.one_of(("yes", "no"), "label", "answer"),
            kind=split,
        )

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """POPE's five numbers for every split, and the means of F1 and accuracy over the splits."""
        found: dict[str, float] = {}
        kinds = list(dict.fromkeys(entry.kind for entry in predictions))
        by_split = {
            kind: yes_no_scores(count_yes_no((p.parsed, p.answer or "") for p in predictions if p.kind == kind))
            for kind in kinds
        }
        for kind, scores in by_split.items():
            found |= {metric_name(kind, name): value for name, value in scores._asdict().items()}
        if by_split:
            found["mean_f1"] = sum(scores.f1 for scores in by_split.values()) / len(by_split)
            found["mean_accuracy"] = sum(scores.accuracy for scores in by_split.values()) / len(by_split)
        return found

    def identity(self) -> Mapping[str, object]:
        return {**super().identity(), "splits": list(self.splits)}
