"""AMBER: hallucination in free descriptions and in yes-or-no questions about existence, attributes and relations.

Data: Wang et al., 2023 (arXiv:2311.07397), Apache-2.0; 1004 images, 14 216 yes-or-no questions. The user's copy of the
repository: ``data/query/query_all.json``, ``data/annotations.json``, ``data/relation.json`` (associated words) and
``data/safe_words.txt``, with the pictures ``AMBER_<n>.jpg`` in ``image/``. No word list is bundled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lit_simignore.benchmarks._choice import by_kind
from lit_simignore.benchmarks._lemmas import singular, words
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row, objects, read_json
from lit_simignore.benchmarks._short_questions import bare, short
from lit_simignore.benchmarks._sourced import SourcedBenchmark, find_files
from lit_simignore.benchmarks._yes_no import parse_amber, parse_yes_no
from lit_simignore.metrics.amber import Description, amber_scores
from lit_simignore.metrics.hallucination import count_yes_no, yes_no_scores
from lit_simignore.types import Prediction, Sample, Segment, UserError

TASKS = ("generative", "discriminative")
_KINDS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
_ATTRIBUTES = ("state", "number", "action")
_SEPARATOR = ", "


@dataclass(kw_only=True)
class AMBER(SourcedBenchmark):
    """Descriptions and yes-or-no questions.

    Args:
        tasks: ``generative`` (one description per image), ``discriminative`` (yes or no), or both.
        protocol: ``llava`` (yes-or-no questions with its instruction; the first word that is yes or no counts) or
            ``amber`` (the questions as they are; an answer must be exactly "Yes" or "No"). Descriptions are read alike.

    A description is worth 1 if it invents nothing (1 - Hal). Its nouns are the words that AMBER's association table
    knows, in the singular; the release first asks a part-of-speech tagger which words are nouns.
    """

    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    protocols: ClassVar[Mapping[str, Protocol]] = {
        "amber/1": Protocol(bare, reads(parse_amber)),
        "llava/1": Protocol(short, reads(parse_yes_no)),
    }
    headline: ClassVar[tuple[str, ...]] = (
        "generative_chair", "generative_cover", "generative_hal", "generative_cog", "discriminative_f1",
    )  # fmt: skip
    patterns: ClassVar[tuple[str, ...]] = ("query/query_all.json", "data/query/query_all.json", "query_all.json")
    image_folders: ClassVar[tuple[str, ...]] = ("image", "images", "../image", "data/image", "data/images")
    max_new_tokens: ClassVar[int] = 512

    _associated: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _safe: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)
    _vocabulary: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)
    _pairs: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or not set(self.tasks) <= set(TASKS):
            raise UserError(f"benchmark.tasks must be some of {', '.join(TASKS)}; got {self.tasks}")

    def files(self) -> list[Path]:
        """The questions, the annotations, the associated words and the safe words."""
        if self.local is None or not self.local.is_dir():
            raise UserError(f"expected benchmark.path=<AMBER's folder>; got {self.path!r}")
        (questions,) = find_files(self.local, self.patterns)
        data = questions.parent.parent if questions.parent.name == "query" else questions.parent
        return [questions, *(find_files(data, [name])[0] for name in ("annotations.json", "relation.json"))] + [
            *find_files(data, ["safe_words.txt"])
        ]

    def read(self) -> Iterator[Sample]:
        questions, annotations, relation, safe = self.files()
        self._read_words(relation, safe)
        known = {row.need("id"): row for row in objects(read_json(annotations), annotations.name)}
        for row in objects(read_json(questions), questions.name):
            number = row.need("id")
            if number not in known:
                raise UserError(f"{row.where}id {number} is not in {annotations.name}")
            task = "generative" if known[number].need("type") == "generative" else "discriminative"
            if task in self.tasks:
                yield self._sample(row, known[number])

    def _read_words(self, relation: Path, safe: Path) -> None:
        table = read_json(relation)
        if not isinstance(table, dict) or not all(isinstance(value, list) for value in table.values()):
            raise UserError(f"{relation.name}: expected a list of associated words for every object")
        self._associated = {str(key): [str(word) for word in value] for key, value in table.items()}
        self._safe = frozenset(line.strip() for line in safe.read_text(encoding="utf-8").splitlines() if line.strip())
        self._vocabulary = frozenset(self._associated) | {w for value in self._associated.values() for w in value}

    def _sample(self, row: Row, truth: Row) -> Sample:
        sample_id, image = row.need_text("id"), row.need_text("image")
        described = truth.need("type") == "generative"
        common: dict[str, Any] = {
            "sample_id": sample_id,
            "images": (self.picture(image, row.where),),
            "group_id": image,
            "kind": "generative" if described else _KINDS.get(truth.need_text("type"), "relation"),
        }
        query = row.need_text("query")
        if not described:
            answer = truth.one_of(("yes", "no"), "truth")
            return Sample(segments=self._ask(query), answer=answer, **common)
        present, likely = truth.strings("truth"), [str(word) for word in truth.values.get("hallu") or []]
        self._pairs[sample_id] = (present, likely)
        right = {*present, *(word for name in present for word in self._associated.get(name, ())), *self._safe}
        answer = _SEPARATOR.join(self._nouns(_SEPARATOR.join(present)))
        return Sample(segments=bare(query), answer=answer, references=tuple(sorted(right)), **common)

    def _ask(self, query: str) -> tuple[Segment, ...]:
        return self.protocols[self.protocol].prompt(query)

    def _nouns(self, text: str) -> list[str]:
        """The words of a description that AMBER knows, with repeats, in the singular unless that is unknown to it."""
        found = (word if word in self._vocabulary else singular(word) for word in words(text))
        return [word for word in found if word in self._vocabulary]

    def parse(self, output: str, sample: Sample) -> str | None:
        """Yes or no, or the known nouns of a description."""
        return _SEPARATOR.join(self._nouns(output)) if sample.kind == "generative" else super().parse(output, sample)

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """1 for the right word; of a description, 1 if it invents nothing."""
        if sample.kind != "generative":
            return super().score(parsed, sample)
        return float(parsed is not None and set(_listed(parsed)) <= set(sample.references))

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """CHAIR, Cover, Hal and Cog of the descriptions; accuracy, precision, recall and F1 of the questions.

        "No" is the positive class there, as in AMBER: precision and recall are those of noticing what is not so. Its F1
        has 0.0001 added to the denominator (0.001 for existence), which is left out. Averages of AMBER itself:
        ``amber_score`` = (1 - CHAIR + F1) / 2.
        """
        found = by_kind(predictions)
        described = [entry for entry in predictions if entry.kind == "generative" and entry.sample_id in self._pairs]
        scores = amber_scores(
            (Description(_listed(p.parsed or ""), *self._pairs[p.sample_id]) for p in described),
            self._associated, self._safe,
        )  # fmt: skip
        if described:
            found |= {f"generative_{name}": value for name, value in scores._asdict().items()}
        asked = [entry for entry in predictions if entry.kind != "generative"]
        groups = {"discriminative": asked, "attribute": [p for p in asked if p.kind in _ATTRIBUTES]}
        groups |= {kind: [p for p in asked if p.kind == kind] for kind in ("existence", "relation")}
        for name, part in groups.items():
            found |= _noticed(name, part)
        if described and asked:
            found["amber_score"] = (1 - scores.chair + found["discriminative_f1"]) / 2
        return found

    def identity(self) -> Mapping[str, object]:
        return {**super().identity(), "tasks": sorted(self.tasks)}


def _listed(text: str) -> list[str]:
    return re.split(_SEPARATOR, text) if text else []


def _noticed(name: str, asked: Sequence[Prediction]) -> dict[str, float]:
    """The scores with "no" as the positive class: yes and no change places."""
    if not asked:
        return {}
    other = {"yes": "no", "no": "yes", None: None}
    scores = yes_no_scores(count_yes_no((other[p.parsed], str(other[p.answer])) for p in asked))
    return {f"{name}_{key}": getattr(scores, key) for key in ("accuracy", "precision", "recall", "f1")}
