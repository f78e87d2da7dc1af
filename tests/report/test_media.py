"""Only pictures below ``media/`` get into a report, and only after they were decoded."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from lit_simignore.report.html import write_report
from lit_simignore.report.media import MediaEntry, read_media, safe_path
from lit_simignore.types import UserError
from tests.report.fake_run import STANDARD, build_run
from tests.report.pages import read_page

SECRET = (12, 34, 56)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "media").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "media" / "good.png")
    Image.new("RGB", (8, 8), SECRET).save(tmp_path / "secret.png")
    Image.new("RGB", (8, 8), SECRET).save(folder / "beside.png")
    return folder


@pytest.mark.parametrize(
    "file",
    [
        "../secret.png",
        "media/../../secret.png",
        "media/../beside.png",
        "beside.png",
        "media/./../beside.png",
        "media\\..\\..\\secret.png",
        "media/missing.png",
        "media/good.png\x00.png",
        "media/",
        "",
        "media/index.json",
        "file:///etc/passwd",
        "media/" + "a" * 5000 + ".png",
    ],
)
def test_a_path_that_is_no_picture_within_media_is_refused(run_dir: Path, file: str) -> None:
    with pytest.raises(UserError) as caught:
        safe_path(run_dir, file)
    assert "\n" not in str(caught.value)


def test_an_absolute_path_is_refused(run_dir: Path) -> None:
    with pytest.raises(UserError, match="media/<file>"):
        safe_path(run_dir, str(run_dir / "media" / "good.png"))


def test_links_that_lead_out_of_media_are_refused(run_dir: Path) -> None:
    os.symlink(run_dir.parent / "secret.png", run_dir / "media" / "link.png")
    os.symlink(run_dir.parent, run_dir / "media" / "up")
    for file in ("media/link.png", "media/up/secret.png"):
        with pytest.raises(UserError, match="inside media/"):
            safe_path(run_dir, file)


def test_a_good_path_is_the_file(run_dir: Path) -> None:
    assert safe_path(run_dir, "media/good.png") == (run_dir / "media" / "good.png").resolve()


def test_a_folder_and_a_text_with_the_name_of_a_picture_are_refused(run_dir: Path) -> None:
    (run_dir / "media" / "folder.png").mkdir()
    (run_dir / "media" / "text.png").write_text("<svg onload=alert(1)>")
    media = read_media(run_dir)
    for name in ("folder", "text"):
        with pytest.raises(UserError):
            media.picture(MediaEntry(f"media/{name}.png", 1, 1))


def test_embedded_bytes_are_written_anew_so_that_nothing_rides_along(run_dir: Path) -> None:
    path = run_dir / "media" / "good.png"
    path.write_bytes(path.read_bytes() + b"<script>alert(1)</script>")
    picture = read_media(run_dir).picture(MediaEntry("media/good.png", 1, 1))
    data = base64.b64decode(picture.uri.partition(",")[2])
    assert b"script" not in data
    assert Image.open(io.BytesIO(data)).convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_large_photographs_are_made_small(run_dir: Path) -> None:
    noise = Image.frombytes("RGB", (1600, 900), os.urandom(1600 * 900 * 3))
    noise.save(run_dir / "media" / "big.png")
    picture = read_media(run_dir).picture(MediaEntry("media/big.png", 9, 16))
    assert (picture.width, picture.height) == (448, 252)
    assert picture.uri.startswith("data:image/jpeg") and len(picture.uri) < 200_000


@pytest.mark.parametrize(
    "text", ["[1, 2]", "no json", '{"a": {"file": 3}}', '{"a": [3, {"rows": -1}]}', "\xff", "[" * 9999]
)
def test_a_broken_index_costs_the_pictures_but_not_the_report(tmp_path: Path, text: str) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=6, num_shown=3, pictures=False)
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "index.json").write_bytes(text.encode("latin-1"))
    assert read_page(write_report(tmp_path)).tags["table"] == 2


def test_a_report_over_a_hostile_index_says_so_and_embeds_nothing_from_outside(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "run", methods=STANDARD[:2], num_samples=6, num_shown=3)
    Image.new("RGB", (16, 16), SECRET).save(tmp_path / "secret.png")
    index = json.loads((folder / "media" / "index.json").read_text())
    for number, entries in enumerate(index.values()):
        entries[0]["file"] = ["../secret.png", "media/../../secret.png", "/etc/passwd"][number]
    (folder / "media" / "index.json").write_text(json.dumps(index))
    page = read_page(write_report(folder))
    assert page.tags["image"] == 0
    assert page.classes["missing"] == 6
    assert "it is left out" in page.text
