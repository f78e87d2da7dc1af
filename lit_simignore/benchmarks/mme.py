"""MME: two yes-or-no questions about every image, one of each kind, in 14 tasks of perception and cognition.

Data: Fu et al., 2023 (arXiv:2306.13394): 2374 questions about 1187 images, to be requested from its authors, one folder
per task with ``<image>.txt`` (question, tab, answer; two lines) beside the pictures, or in ``questions_answers_YN/``
with the pictures in ``images/``; or the hub's ``lmms-lab/MME``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lit_simignore.benchmarks._names import metric_name
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row
from lit_simignore.benchmarks._short_questions import bare, short
from lit_simignore.benchmarks._sourced import SourcedBenchmark
from lit_simignore.benchmarks._yes_no import parse_mme, parse_mme_lmms_eval
from lit_simignore.metrics.mme import mme_scores
from lit_simignore.types import ImageSource, Prediction, Sample, Segment, UserError

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_ASKED_TWICE = " Please answer yes or no."
_PICTURES = (".jpg", ".png", ".jpeg")


def _short(question: str) -> tuple[Segment, ...]:
    return short(question.replace(_ASKED_TWICE, "").strip())


@dataclass(kw_only=True)
class MME(SourcedBenchmark):
    """Yes-or-no questions, scored per task on a scale of 200.

    Args:
        tasks: which tasks; empty takes all.
        protocol: ``llava`` (its instruction in place of "Please answer yes or no."; MME's parser), ``mme`` (the
            question as it is, the same parser) or ``lmms-eval`` (as LLaVA, with that harness's parser).
    """

    path: str = "lmms-lab/MME"
    tasks: tuple[str, ...] = ()

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(_short, reads(parse_mme)),
        "mme/1": Protocol(bare, reads(parse_mme)),
        "lmms-eval/1": Protocol(_short, reads(parse_mme_lmms_eval)),
    }
    headline: ClassVar[tuple[str, ...]] = ("perception_score", "cognition_score")
    patterns: ClassVar[tuple[str, ...]] = (
        "*/*.txt", "*/questions_answers_YN/*.txt", "*/*/questions_answers_YN/*.txt", "**/{split}-*.parquet",
    )  # fmt: skip
    max_new_tokens: ClassVar[int] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.tasks) - {*PERCEPTION, *COGNITION}
        if unknown:
            raise UserError(f"benchmark.tasks: {min(unknown)!r} is none of {', '.join((*PERCEPTION, *COGNITION))}")

    def files(self) -> list[Path]:
        """Both layouts may lie side by side, as they do in the release."""
        found = super().files()
        if found[0].suffix == ".txt" and self.local is not None and self.local.is_dir():
            found = sorted({file for pattern in self.patterns[:3] for file in self.local.glob(pattern)})
        return found

    def read(self) -> Iterator[Sample]:
        seen: Counter[str] = Counter()
        for row in self.rows():
            task, image = row.need_text("category"), row.need_text("question_id")
            if self.tasks and task not in self.tasks:
                continue
            group = image if image.startswith(f"{task}/") else f"{task}/{image}"
            yield Sample(
                sample_id=f"{group}#{seen[group]}",
                segments=self.protocols[self.protocol].prompt(row.need_text("question").strip()),
                images=(row.need("image"),),
                group_id=group,
                answer=row.one_of(("yes", "no"), "answer"),
                kind=task,
            )
            seen[group] += 1

    def rows(self) -> Iterator[Row]:
        if self.local is None or self.files()[0].suffix != ".txt":
            yield from super().rows()
            return
        for file in self.files():
            yield from _text_rows(file)

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """Accuracy and accuracy+ (0 to 1) and score (0 to 200) of every task, and MME's two totals."""
        scores = mme_scores((entry.kind, entry.group_id, entry.score) for entry in predictions)
        found: dict[str, float] = {}
        for task, (acc, acc_plus) in scores.items():
            numbers = {"acc": acc, "acc_plus": acc_plus, "score": 100 * (acc + acc_plus)}
            found |= {metric_name(task, name): value for name, value in numbers.items()}
        for total, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            if part := [100 * sum(scores[task]) for task in tasks if task in scores]:
                found[f"{total}_score"] = sum(part)
        return found

    def identity(self) -> Mapping[str, object]:
        return {**super().identity(), "tasks": sorted(self.tasks)}


def _text_rows(file: Path) -> Iterator[Row]:
    """The two lines about one picture."""
    folder = file.parent
    task = folder.parent.name if folder.name == "questions_answers_YN" else folder.name
    image = _image(folder.parent / "images" if folder.name == "questions_answers_YN" else folder, file.stem)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{task}/{file.name}, line {number}: "
        question, tab, answer = line.rpartition("\t")
        if not tab:
            raise UserError(f"{where}expected a question, a tab and Yes or No; got {line[:80]!r}")
        values = {"category": task, "question_id": image.name, "question": question, "answer": answer, "image": image}
        yield Row(where, values)


def _image(folder: Path, stem: str) -> Path:
    """The picture of that name; the first kind where there is none, which is then that sample's error."""
    candidates = [folder / f"{stem}{suffix}" for suffix in _PICTURES]
    found: ImageSource = next((path for path in candidates if path.is_file()), candidates[0])
    assert isinstance(found, Path)
    return found
