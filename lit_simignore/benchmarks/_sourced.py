"""What benchmarks share whose data lie in the user's folder or on the hub."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lit_simignore.benchmarks._hub import hub_rows, is_hub_id, parquet_rows
from lit_simignore.benchmarks._pictures import picture, picture_folder
from lit_simignore.benchmarks._protocols import Protocol, full_name
from lit_simignore.benchmarks._rows import Row, read_rows
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.types import ImageSource, Sample, UserError

_WHOLE_BYTES = 256 * 2**20
"""Files up to this size are hashed byte by byte; of larger ones, which hold pictures, name, size, beginning and end."""


@dataclass(kw_only=True)
class SourcedBenchmark(Benchmark):
    """Base of the benchmarks that are not bundled.

    Args:
        path: a folder in the official layout, one of its question files, or the id of a dataset on the hub
            (``owner/name``; needs the extra ``benchmarks``, as Parquet files do).
        images: folder of the pictures, where it is not one of the usual ones beside the questions.
        split: which split.
        subset: configuration of a hub dataset that has several.
        revision: commit of a hub dataset; unset follows its main branch.
        protocol: name of prompt and parser, with or without its version.
    """

    path: str = ""
    images: str | None = None
    split: str = "test"
    subset: str | None = None
    revision: str | None = None
    protocol: str = "llava"

    protocols: ClassVar[Mapping[str, Protocol]]
    """Prompts and parsers to choose from, as ``name/version``."""

    patterns: ClassVar[tuple[str, ...]]
    """Names of the question files in a folder; the first that matches something counts. ``{split}`` and other
    fields are filled in."""

    image_folders: ClassVar[tuple[str, ...]] = ("images", "image")
    """Where pictures lie, relative to the folder of the questions."""

    facts: dict[str, dict[str, str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What break-downs need to know, by sample id; filled by :meth:`load`."""

    _folder: Path | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.protocol = full_name(self.protocol, self.protocols)

    def load(self) -> Sequence[Sample]:
        """All samples, in the order of the data.

        Raises:
            UserError: nothing is at ``path``, or a record is malformed; names file and record.
        """
        self.facts.clear()
        self._folder = None
        samples = list(self.read())
        if not samples:
            raise UserError(f"{self.path} has no samples for these settings")
        twice = [name for name, count in Counter(sample.sample_id for sample in samples).items() if count > 1]
        if twice:
            raise UserError(f"{self.path}: question id {twice[0]!r} occurs more than once")
        return samples[: self.limit]

    @abstractmethod
    def read(self) -> Iterator[Sample]:
        """The samples, one by one."""

    def parse(self, output: str, sample: Sample) -> str | None:
        """As the protocol reads it."""
        return self.protocols[self.protocol].parse(output, sample)

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """1 for the right answer, ``None`` where none is known."""
        return None if sample.answer is None else float(parsed == sample.answer)

    def identity(self) -> Mapping[str, object]:
        """Local questions by their content, so that moved files are the same data; the hub by name and revision."""
        if self.local is None:
            source: dict[str, object] = {"path": self.path, "subset": self.subset, "revision": self.revision}
        else:
            source = {"sha256": digest(self.files())}
        return {"protocol": self.protocol, "split": self.split, **source}

    @property
    def local(self) -> Path | None:
        """Where the data lie on this machine; ``None`` for a dataset on the hub."""
        path = Path(self.path)
        if self.path and path.exists():
            return path
        if is_hub_id(self.path):
            return None
        raise UserError(
            f"expected benchmark.path=<file, folder or hub id owner/name>; nothing is at {self.path!r}"
            if self.path else "expected benchmark.path=<file or folder>; got nothing: these data must be fetched by you"
        )  # fmt: skip

    def files(self) -> list[Path]:
        """The local question files, in order; everything that decides about questions and answers is among them."""
        assert self.local is not None
        return find_files(self.local, [pattern.format_map(vars(self)) for pattern in self.patterns])

    def rows(self) -> Iterator[Row]:
        """The records of the local files or of the hub's split."""
        if self.local is None:
            found = hub_rows(self.path, split=self.split, subset=self.subset, revision=self.revision)
            yield from (Row(f"{self.path}, row {index}: ", values) for index, values in enumerate(found))
            return
        files = self.files()
        if files[0].suffix == ".parquet":
            for index, values in enumerate(parquet_rows(files)):
                yield Row(f"{files[0].parent.name}/{self.split}, row {index}: ", values)
            return
        for file in files:
            yield from read_rows(file)

    def picture(self, value: object, where: str) -> ImageSource:
        """The picture that a record names or holds. The first that is named decides in which folder all of them lie."""
        if self._folder is None and isinstance(value, str):
            if self.local is None and not self.images:
                raise UserError(
                    f"{where}expected a picture; got the name of a file: set benchmark.images to its folder"
                )
            usual = picture_folder(self.home, self.image_folders, value)
            self._folder = Path(self.images) if self.images else usual
        return picture(value, self._folder or Path(), where)

    @property
    def home(self) -> Path:
        """The folder of the local questions."""
        local = self.local or Path()
        return local if local.is_dir() else local.parent


def find_files(path: Path, patterns: Sequence[str]) -> list[Path]:
    """``path`` itself if it is a file, else what the first pattern that finds something finds in it.

    Raises:
        UserError: no pattern finds anything.
    """
    if path.is_file():
        return [path]
    for pattern in patterns:
        if found := sorted(path.glob(pattern)):
            return found
    raise UserError(f"expected {' or '.join(patterns)} in {path}; found neither")


def digest(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        if size <= _WHOLE_BYTES:
            found.update(file.read_bytes())
            continue
        found.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            found.update(opened.read(2**20))
            opened.seek(-(2**20), 2)
            found.update(opened.read())
    return found.hexdigest()
