"""One split of a dataset on the Hugging Face hub, through the optional package ``datasets``; pictures undecoded."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lit_simignore.types import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class HubImage:
    """Decodes one row's picture when called."""

    dataset: Any
    index: int
    column: str

    def __call__(self) -> Image.Image:
        picture: Image.Image = self.dataset[self.index][self.column]
        return picture


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/dataset``."""
    return bool(_HUB_ID.fullmatch(name))


def hub_rows(
    source: str, *, split: str, subset: str | None = None, revision: str | None = None, image_column: str = "image"
) -> Iterator[Mapping[str, Any]]:
    """The rows of one split in the dataset's order; a picture is replaced by a :class:`HubImage`, or ``None``.

    Raises:
        UserError: ``datasets`` is not installed, or the split cannot be loaded.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f"{source!r} is no local path, and reading it from the hub needs the package datasets; "
            "install it (pip install datasets) or set benchmark.path to a local file or folder"
        ) from error
    try:
        dataset = datasets.load_dataset(source, subset, split=split, revision=revision)
    # Loading fails in as many ways as there are networks, caches and file formats; all end in one readable line.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot load split {split!r} of {source!r} from the hub: {reason[0]}") from error
    raw = dataset
    if image_column in dataset.column_names:
        raw = dataset.cast_column(image_column, datasets.Image(decode=False))
    for index in range(len(raw)):
        row = dict(raw[index])
        if row.get(image_column) is not None:
            row[image_column] = HubImage(dataset, index, image_column)
        yield row
