"""Opening images, good and bad."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lit_simignore.surgery.images import FORMATS, MAX_PIXELS, open_bytes, open_image
from lit_simignore.types import UserError


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif"])
def test_a_file_opens_in_rgb(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    picture().save(path)
    for ref in (path, str(path)):
        opened = open_image(ref)
        assert opened.mode == "RGB" and opened.size == (30, 20)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I"])
def test_every_mode_becomes_rgb(mode):
    base = picture("L").convert(mode) if mode == "I" else picture(mode)
    assert open_image(base).mode == "RGB"


def test_a_picture_in_memory_is_copied():
    original = picture()
    opened = open_image(original)
    opened.putpixel((0, 0), (1, 2, 3))
    assert original.getpixel((0, 0)) != (1, 2, 3)


def test_a_function_is_called():
    assert open_image(picture).tobytes() == picture().tobytes()
    with pytest.raises(UserError, match="must return a PIL image; got int"):
        open_image(lambda: 3)


def test_the_orientation_of_a_camera_is_undone(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is to be turned by 90 degrees
    Image.new("RGB", (40, 10), "red").save(path, exif=exif)
    assert open_image(path).size == (10, 40)


def one_line(ref) -> str:
    with pytest.raises(UserError) as caught:
        open_image(ref)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    assert "not found" in one_line(tmp_path / "none.png")


def test_a_folder_is_one_line(tmp_path):
    assert "cannot be read" in one_line(tmp_path)


def test_text_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("hello\nworld")
    assert "not an image" in one_line(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_that_is_cut_off_is_one_line(tmp_path, suffix):
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG" if suffix == "jpg" else "PNG")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    message = one_line(path).lower()
    assert "truncated" in message or "cut off" in message


def test_any_flipped_bytes_give_an_image_or_one_line(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    path, good = tmp_path / "a.png", buffer.getvalue()
    random = np.random.default_rng(1)
    for _ in range(60):
        bad = bytearray(good)
        for place in random.integers(8, len(bad), 4):
            bad[place] = int(random.integers(256))
        path.write_bytes(bytes(bad))
        try:
            assert open_image(path).mode == "RGB"
        except UserError as error:
            assert "\n" not in str(error)


def bomb(path, side):
    """A PNG that claims side x side pixels in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    bomb(tmp_path / "a.png", 60_000)
    assert "too many pixels" in one_line(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a user may have switched Pillow's own check off
    assert str(MAX_PIXELS) in one_line(tmp_path / "a.png")


def test_anything_else_is_refused():
    assert "got int" in one_line(3)


def contents(form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture("1" if form == "XBM" else "RGB").save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "XBM"])
def test_contents_of_a_file_open_like_the_file(form, tmp_path):
    assert form in FORMATS
    path = tmp_path / "a"
    path.write_bytes(contents(form))
    assert open_bytes(path.read_bytes(), "sent").tobytes() == open_image(path).tobytes()


def test_formats_that_other_programs_decode_are_not_read_from_contents():
    with pytest.raises(UserError, match="not an image, or in a format that Pillow does not read: sent"):
        open_bytes(contents("EPS"), "sent")


def test_contents_have_their_own_limit_of_pixels():
    assert open_bytes(contents("PNG"), "sent", max_pixels=600).size == (30, 20)
    with pytest.raises(UserError, match="30x20 pixels, more than 599"):
        open_bytes(contents("PNG"), "sent", max_pixels=599)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it will refuse next
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "XBM", "SGI", "DDS"])
def test_whatever_is_broken_in_a_file_is_one_line(form):
    rng = np.random.default_rng(0)
    whole, refused = contents(form), 0
    for _ in range(60):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, min(len(data), 120), 4):
            data[place] = rng.integers(256)
        try:
            open_bytes(bytes(data), "sent", max_pixels=10**6)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20
