"""CHAIR: objects that a caption mentions and that are not in the image.

Data: COCO 2014 (Lin et al., 2014, CC BY 4.0 annotations), fetched by the user: ``annotations/instances_val2014.json``,
``annotations/captions_val2014.json`` and the pictures in ``val2014/``. Metric: Rohrbach et al., EMNLP 2018
(arXiv:1809.02156), prompt and the further numbers as in OPERA's evaluation (arXiv:2311.17911).

Not verified: the table of synonyms is our own (see ``_coco_synonyms``), since the release's has no licence; published
numbers were never reproduced with it. ``synonyms=<the release's synonyms.txt>`` scores with the original.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lit_simignore.benchmarks._coco_objects import ObjectReader, bundled_table, check_categories, read_table
from lit_simignore.benchmarks._lemmas import tokens, words
from lit_simignore.benchmarks._protocols import Protocol
from lit_simignore.benchmarks._rows import member, objects, read_json, read_rows
from lit_simignore.benchmarks._short_questions import bare
from lit_simignore.benchmarks._sourced import SourcedBenchmark, find_files
from lit_simignore.metrics.hallucination import CaptionObjects, chair_scores, count_chair
from lit_simignore.types import Prediction, Sample, UserError

PROMPT = "Please describe this image in detail."
_SEPARATOR = ", "


def _unread(output: str, sample: Sample) -> str | None:
    raise NotImplementedError("captions are read with the table of synonyms: CHAIR.parse")


@dataclass(kw_only=True)
class CHAIR(SourcedBenchmark):
    """Free captions of COCO images, scored by the objects in them.

    Args:
        split: ending of the annotation files and name of the folder of pictures.
        ids: file that says which images: ``.jsonl`` or ``.json`` of objects with ``image_id``, as the published logs
            are, or text with one number per line. Without it ``num_images`` are drawn with ``seed``; published
            subsets depend on the order of somebody's folder and cannot be drawn again.
        num_images: how many images are drawn.
        seed: of drawing them.
        synonyms: table of synonyms, one category per line with its names after commas; by default the bundled one.
        protocol: ``corrected``, or ``released`` for the slips of the release: names of three words are never found,
            names with a surplus blank neither, "desk" is a table and "bow" a tie, and punctuation counts as words.

    What an image holds are its annotated categories and the objects in its reference captions. A caption is worth 1 if
    it invents nothing (1 - CHAIR_s).
    """

    split: str = "val2014"
    ids: str | None = None
    num_images: int = 500
    seed: int = 42
    synonyms: str | None = None
    protocol: str = "corrected"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "corrected/1": Protocol(bare, _unread),
        "released/1": Protocol(bare, _unread),
    }
    headline: ClassVar[tuple[str, ...]] = ("chair_s", "chair_i", "recall", "mean_length")
    patterns: ClassVar[tuple[str, ...]] = ("annotations/instances_{split}.json", "instances_{split}.json")
    image_folders: ClassVar[tuple[str, ...]] = ("val2014", "images", "images/val2014", "train2014", "../val2014")
    max_new_tokens: ClassVar[int] = 512

    _reader: ObjectReader | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_images < 1:
            raise UserError(f"benchmark.num_images must be at least 1; got {self.num_images}")

    @property
    def reader(self) -> ObjectReader:
        """Finds objects in captions."""
        if self._reader is None:
            table = read_table(Path(self.synonyms), self._released) if self.synonyms else bundled_table(self._released)
            self._reader = ObjectReader(table, self._released)
        return self._reader

    @property
    def _released(self) -> bool:
        return self.protocol.startswith("released")

    def files(self) -> list[Path]:
        """The annotations: instances and captions."""
        if self.local is None or not self.local.is_dir():
            raise UserError(f"expected benchmark.path=<folder with COCO's annotations/>; got {self.path!r}")
        (instances,) = super().files()
        return [instances, *find_files(instances.parent, [f"captions_{self.split}.json"])]

    def read(self) -> Iterator[Sample]:
        instances, captions = self.files()
        document = read_json(instances)
        names = {
            int(row.need("id")): row.need_text("file_name")
            for row in objects(member(document, "images", instances.name), instances.name)
        }
        present, chosen = self._annotated(document, instances.name), self._chosen(names)
        described = self._described(captions, set(chosen))
        for image in chosen:
            if image not in described and not self._released:
                raise UserError(f"{captions.name}: image {image} has no reference caption")
            known = sorted(present.get(image, set()) | described.get(image, set()))
            yield Sample(
                sample_id=str(image),
                segments=self.protocols[self.protocol].prompt(PROMPT),
                images=(self.picture(names[image], f"{instances.name}, image {image}: "),),
                group_id=str(image),
                answer=_SEPARATOR.join(known),
                kind="caption",
            )

    def _annotated(self, document: Any, name: str) -> dict[int, set[str]]:
        """Annotated categories by image."""
        rows = objects(member(document, "categories", name), name)
        categories = check_categories(self.reader, {int(row.need("id")): row.need_text("name") for row in rows})
        found: defaultdict[int, set[str]] = defaultdict(set)
        for row in objects(member(document, "annotations", name), name):
            number = int(row.need("category_id"))
            if number not in categories:
                raise UserError(f"{row.where}category {number} is not among the categories")
            found[int(row.need("image_id"))].add(categories[number])
        return found

    def _described(self, captions: Path, wanted: set[int]) -> dict[int, set[str]]:
        """Objects in the reference captions by image, for the images that are wanted."""
        found: defaultdict[int, set[str]] = defaultdict(set)
        for row in objects(member(read_json(captions), "annotations", captions.name), captions.name):
            image = int(row.need("image_id"))
            if image in wanted:
                found[image].update(self.reader.read(row.text("caption")))
        return found

    def _chosen(self, names: Mapping[int, str]) -> list[int]:
        if self.ids is None:
            return random.Random(self.seed).sample(sorted(names), min(self.num_images, len(names)))
        chosen = list(dict.fromkeys(_read_ids(Path(self.ids))))
        unknown = [image for image in chosen if image not in names]
        if unknown:
            raise UserError(f"benchmark.ids: image {unknown[0]} is not among the {len(names)} of {self.split}")
        return chosen

    def parse(self, output: str, sample: Sample) -> str | None:
        """The categories that the caption mentions, in order, with repeats; nothing is empty."""
        return _SEPARATOR.join(self.reader.read(output))

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """1 for a caption that invents nothing."""
        return float(parsed is not None and set(_listed(parsed)) <= set(_listed(sample.answer or "")))

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """CHAIR_i, CHAIR_s and recall (0 to 1) and the mean length in words."""
        if not predictions:
            return {}
        count = tokens if self._released else words
        captions = (
            CaptionObjects(_listed(entry.parsed or ""), _listed(entry.answer or ""), len(count(entry.output)))
            for entry in predictions
        )
        return chair_scores(count_chair(captions))._asdict()

    def identity(self) -> Mapping[str, object]:
        more = {name: None if path is None else _digest(Path(path)) for name, path in self._named().items()}
        return {**super().identity(), "num_images": self.num_images, "seed": self.seed, **more}

    def _named(self) -> dict[str, str | None]:
        return {"ids": self.ids, "synonyms": self.synonyms}


def _read_ids(path: Path) -> Iterator[int]:
    if path.suffix in (".json", ".jsonl"):
        for row in read_rows(path):
            yield _number(row.need_text("image_id"), row.where)
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read benchmark.ids: {error}") from error
    yield from (_number(line, f"{path.name}, line {n}: ") for n, line in enumerate(lines, start=1) if line.strip())


def _number(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{where}expected the number of an image; got {text[:80]!r}") from error


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _listed(text: str) -> list[str]:
    return text.split(_SEPARATOR) if text else []
