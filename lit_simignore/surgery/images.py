"""Opening images that may be anything: missing, cut off, sideways, or made to exhaust memory."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lit_simignore.types import ImageSource, UserError

MAX_PIXELS = 178_956_970
"""Twice Pillow's warning threshold: where Pillow itself refuses by default."""


def open_image(ref: ImageSource | str) -> Image.Image:
    """The picture behind ``ref``, upright and in RGB.

    Args:
        ref: a path, a picture, or a function without arguments that returns a picture.

    Returns:
        A new RGB image, rotated as its EXIF orientation says.

    Raises:
        UserError: no such file; not an image; cut off or corrupt; more than 178 956 970 pixels; or ``ref`` is
            something else altogether.
    """
    if isinstance(ref, Image.Image):
        return _upright(ref, "image in memory")
    if callable(ref):
        drawn = ref()
        if not isinstance(drawn, Image.Image):
            raise UserError(f"an image function must return a PIL image; got {type(drawn).__name__}")
        return _upright(drawn, "drawn image")
    if isinstance(ref, (str, os.PathLike)):
        return _open_file(Path(ref))
    raise UserError(
        f"expected an image as a path, a PIL image or a function that returns one; got {type(ref).__name__}"
    )


def _open_file(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return _upright(opened, str(path))
    except FileNotFoundError as error:
        raise UserError(f"image file not found: {path}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"not an image, or in a format that Pillow does not read: {path}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image has too many pixels to open safely (limit {MAX_PIXELS}): {path}") from error
    except OSError as error:
        raise UserError(f"image cannot be read ({_one_line(error)}): {path}") from error


def _upright(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"image has {image.width}x{image.height} pixels, more than {MAX_PIXELS}; make it smaller: {name}"
        )
    try:
        image.load()
        turned = ImageOps.exif_transpose(image)
        return turned.convert("RGB") if turned.mode != "RGB" else turned.copy()
    # Pillow's decoders report broken data under all of these
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"image is cut off or corrupt ({_one_line(error)}): {name}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
