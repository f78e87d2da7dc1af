"""Pictures that lie inside a data file, decoded when they are asked for; and those that it names."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lit_simignore.benchmarks._paths import inside
from lit_simignore.types import ImageSource, UserError

_LONGEST_NAME = 256
"""Characters: longer text is no file's name but a picture in base64."""


@dataclass(frozen=True, slots=True)
class Base64Image:
    """A picture as base64 text, as tables of tab-separated values hold it."""

    text: str = field(repr=False)

    def __call__(self) -> Image.Image:
        try:
            data = base64.b64decode(self.text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"the picture is no base64 text: {error}") from error
        return Image.open(io.BytesIO(data))


def picture(value: Any, folder: Path, where: str) -> ImageSource:
    """What a record says about its picture, as something that can be opened.

    Args:
        value: a name relative to ``folder``, base64 text, or something that can be opened already.
        folder: of the pictures.
        where: the record's place, for messages.

    Raises:
        UserError: it is none of these, or a name that leads out of the folder.
    """
    if isinstance(value, str):
        return Base64Image(value) if len(value) > _LONGEST_NAME else inside(folder, value, where)
    if callable(value) or isinstance(value, Image.Image):
        found: ImageSource = value
        return found
    raise UserError(f"{where}expected a picture as a file's name or as data; got a {type(value).__name__}")


def picture_folder(base: Path, below: Sequence[str], first: str) -> Path:
    """The first of the folders ``base / below`` that holds the file ``first``, else ``base``."""
    candidates = [base / name for name in below]
    return next((folder for folder in candidates if (folder / first).is_file()), base)
