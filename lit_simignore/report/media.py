"""Pictures of a run as data URIs: only files below ``media/``, checked, decoded and made small."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lit_simignore.types import UserError

_MAX_SIDE = 448
_MAX_FILE_BYTES = 32 * 2**20
_MAX_PIXELS = 64_000_000
_MAX_PNG_BYTES = 40_000
_MAX_PATCHES = 100_000
_FORMATS = ("PNG", "JPEG")
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class MediaEntry:
    """One image of one sample: its file as the index names it, and the grid of visual tokens that covers it whole."""

    file: str
    rows: int
    cols: int

    @property
    def num_tokens(self) -> int:
        """Visual tokens of the image; 0 where the grid is not known."""
        return self.rows * self.cols


@dataclass(frozen=True, slots=True)
class Picture:
    """An image fit for embedding. ``key`` is the same for the same contents; the size is that of the embedded image."""

    key: str
    uri: str
    width: int
    height: int


@dataclass(slots=True)
class Media:
    """The pictures of a run folder.

    Args:
        run_dir: the folder; pictures lie in its ``media/``.
        index: entries by sample id, in the order of the samples.
        problem: why there is no index, in words; empty if there is one.
    """

    run_dir: Path
    index: Mapping[str, tuple[MediaEntry, ...]]
    problem: str = ""
    _known: dict[str, Picture] = field(default_factory=dict)

    def picture(self, entry: MediaEntry) -> Picture:
        """Read one image.

        Raises:
            UserError: the file is not there, lies outside ``media/``, or is no picture of bearable size.
        """
        if entry.file not in self._known:
            self._known[entry.file] = _embed(safe_path(self.run_dir, entry.file))
        return self._known[entry.file]


def read_media(run_dir: Path) -> Media:
    """Read ``media/index.json``; without a readable one the report does without pictures and says why."""
    path = run_dir / "media" / "index.json"
    if not path.is_file():
        return Media(run_dir, {}, "This run has no pictures (media/index.json is missing).")
    try:
        decoded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Media(run_dir, {}, f"The list of pictures cannot be read (media/index.json: {type(error).__name__}).")
    if not isinstance(decoded, Mapping):
        return Media(run_dir, {}, "The list of pictures is no object (media/index.json).")
    return Media(run_dir, {str(sample): _entries(found) for sample, found in decoded.items()})


def _entries(found: object) -> tuple[MediaEntry, ...]:
    if not isinstance(found, list):
        return ()
    return tuple(_entry(each) for each in found if isinstance(each, Mapping))


def _entry(found: Mapping[str, object]) -> MediaEntry:
    rows, cols = found.get("rows"), found.get("cols")
    fits = isinstance(rows, int) and isinstance(cols, int) and rows > 0 and cols > 0 and rows * cols <= _MAX_PATCHES
    return MediaEntry(str(found.get("file", "")), rows if fits else 0, cols if fits else 0)  # type: ignore[arg-type]


def safe_path(run_dir: Path, file: str) -> Path:
    """The picture that an index entry names.

    Raises:
        UserError: it is no PNG or JPEG file within ``run_dir/media`` once links and ``..`` are resolved.
    """
    if not re.fullmatch(r"media/[^\x00-\x1f\\]{1,240}", file) or not file.lower().endswith(_SUFFIXES):
        raise UserError(f"expected a picture media/<file>.png, got {file[:80]!r}; it is left out")
    root = (run_dir / "media").resolve()
    path = (run_dir / file).resolve()
    if not path.is_relative_to(root):
        raise UserError(f"expected a picture inside media/, got {file[:80]!r}; it is left out")
    if not path.is_file():
        raise UserError(f"{file[:80]!r} is not there")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise UserError(f"{file[:80]!r} is larger than {_MAX_FILE_BYTES >> 20} MiB; it is left out")
    return path


def _embed(path: Path) -> Picture:
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise UserError(f"{path.name!r} has more than {_MAX_PIXELS:,} pixels; it is left out")
            image = opened.convert("RGB")
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path.name!r} cannot be read as a picture ({type(error).__name__})") from error
    return embedded(image)


def embedded(image: Image.Image) -> Picture:
    """An opened image made small for a page, in place: written anew as PNG, as JPEG where that is large."""
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    data, kind = _written(image, "PNG", optimize=True), "png"
    if len(data) > _MAX_PNG_BYTES:
        data, kind = _written(image, "JPEG", quality=84), "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Picture(hashlib.sha256(data).hexdigest()[:12], uri, image.width, image.height)


def _written(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
