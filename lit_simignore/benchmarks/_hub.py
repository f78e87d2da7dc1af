"""Tables with pictures, from the Hugging Face hub or from Parquet files, through the optional package ``datasets``.

Pictures are neither decoded nor even read before they are asked for.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lit_simignore.types import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class HubImage:
    """Decodes one row's picture when called; of several the first.

    Args:
        dataset: a ``datasets.Dataset`` with the column of pictures.
        index: of the row.
        column: of the pictures.
    """

    dataset: Any
    index: int
    column: str

    def __call__(self) -> Image.Image:
        value = self.dataset[self.index][self.column]
        if isinstance(value, list):
            value = value[0] if value else None
        if isinstance(value, Mapping):  # a table that does not say that its bytes are pictures
            value = value.get("bytes")
        if isinstance(value, bytes):
            value = Image.open(io.BytesIO(value))
        if not isinstance(value, Image.Image):
            raise UserError(f"row {self.index} has no picture in column {self.column}")
        return value


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/dataset``."""
    return bool(_HUB_ID.fullmatch(name))


def hub_rows(
    source: str, *, split: str, subset: str | None = None, revision: str | None = None, image_column: str = "image"
) -> Iterator[dict[str, Any]]:
    """The rows of one split in the dataset's order; a picture is replaced by a :class:`HubImage`, or ``None``.

    Raises:
        UserError: ``datasets`` is not installed, or the split cannot be loaded.
    """
    datasets = _datasets(f"{source!r} is no local path, and reading it from the hub")
    try:
        dataset = datasets.load_dataset(source, subset, split=split, revision=revision)
    # Loading fails in as many ways as there are networks, caches and file formats; all end in one readable line.
    except Exception as error:
        raise UserError(
            f"cannot load split {split!r} of {source!r} from the hub: {_first_line(error)}; "
            "benchmark.path=FOLDER takes data that lie on this machine"
        ) from error
    yield from table_rows(dataset, image_column)


def parquet_rows(files: Sequence[Path], image_column: str = "image") -> Iterator[dict[str, Any]]:
    """The rows of Parquet files that belong together. ``datasets`` keeps a copy that can be read at any place.

    Raises:
        UserError: ``datasets`` is not installed, or the files cannot be read.
    """
    datasets = _datasets(f"reading {files[0].name}")
    try:
        dataset = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:
        raise UserError(f"cannot read {files[0].name}: {_first_line(error)}") from error
    yield from table_rows(dataset, image_column)


def table_rows(dataset: Any, image_column: str) -> Iterator[dict[str, Any]]:
    """The rows of a ``datasets.Dataset``; a picture is replaced by a :class:`HubImage`, or ``None``."""
    if image_column not in dataset.column_names:
        yield from (dict(row) for row in dataset)
        return
    pictures = dataset.select_columns([image_column])
    there = dataset.data.column(image_column).is_valid().to_pylist()
    for index, row in enumerate(dataset.remove_columns([image_column])):
        yield {**row, image_column: HubImage(pictures, index, image_column) if there[index] else None}


def _datasets(purpose: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package datasets; install it (pip install 'lit_simignore[benchmarks]') "
            "or set benchmark.path to a local file or folder of another kind"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
