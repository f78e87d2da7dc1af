"""Opening images that may be anything: missing, cut off, sideways, or made to exhaust memory."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lit_simignore.types import ImageSource, UserError

MAX_PIXELS = 178_956_970
"""Twice Pillow's warning threshold: where Pillow itself refuses by default."""

FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "MPO", "ICO", "ICNS"),
    *("PPM", "TGA", "QOI", "PCX", "SGI", "DDS", "XBM"),
)
"""What :func:`open_bytes` reads, as far as the installed Pillow does."""

_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)
"""Pillow's readers report broken data under all of these."""


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
        return _open_file(Path(ref), str(ref))
    raise UserError(
        f"expected an image as a path, a PIL image or a function that returns one; got {type(ref).__name__}"
    )


def open_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in the contents of a file that somebody sent, upright and in RGB.

    Only formats that are decoded in this process: Pillow hands some others to programs that run what is in the file.

    Args:
        data: the whole file, in any of :data:`FORMATS`.
        name: what messages call it.
        max_pixels: more are refused before they are decoded.

    Raises:
        UserError: not an image; cut off or corrupt; too many pixels.
    """
    Image.init()
    readable = [form for form in FORMATS if form in Image.OPEN]
    return _open_file(io.BytesIO(data), name, formats=readable, max_pixels=max_pixels)


def _open_file(
    source: Path | io.BytesIO, name: str, formats: list[str] | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    try:
        with Image.open(source, formats=formats) as opened:
            return _upright(opened, name, max_pixels)
    except FileNotFoundError as error:
        raise UserError(f"image file not found: {name}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"not an image, or in a format that Pillow does not read: {name}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image has too many pixels to open safely (limit {max_pixels}): {name}") from error
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"image cannot be read ({_one_line(error)}): {name}") from error


def _upright(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise UserError(
            f"image has {image.width}x{image.height} pixels, more than {max_pixels}; make it smaller: {name}"
        )
    try:
        image.load()
        turned = ImageOps.exif_transpose(image)
        return turned.convert("RGB") if turned.mode != "RGB" else turned.copy()
    except _BROKEN as error:
        raise UserError(f"image is cut off or corrupt ({_one_line(error)}): {name}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
