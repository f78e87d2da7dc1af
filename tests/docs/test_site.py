"""The site builds without a warning, asks nothing of other hosts, and leads to every page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import lit_simignore as ls
from tests.docs.pages import ROOT

LOADING = {"script", "img", "iframe", "source", "video", "audio", "embed"}
LOADED_LINKS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon", "manifest"}


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself when it shows a page, and those that a reader can click."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.clickable: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in LOADING and "src" in values:
            self.fetched.append(values["src"])
        if tag == "link" and LOADED_LINKS & set(values.get("rel", "").split()):
            self.fetched.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.clickable.append(values["href"])


def read(page: Path) -> Loads:
    parser = Loads()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **quiet}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "", done.stderr
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()


def test_pages_ask_nothing_of_other_hosts(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert pages
    fetched = {(page.name, address) for page in pages for address in read(page).fetched}
    assert fetched
    assert {(page, address) for page, address in fetched if re.match(r"(?:\w+:)?//", address)} == set()
    elsewhere = re.compile(r"(?:@import|url\()\s*['\"]?(?:https?:)?//")
    assert not [path for path in site.rglob("*.css") if elsewhere.search(path.read_text(encoding="utf-8"))]


def test_links_and_pictures_lead_to_files_of_the_site(site: Path) -> None:
    missing = []
    for page in site.rglob("*.html"):
        found = read(page)
        for address in (*found.fetched, *found.clickable):
            path = unquote(urlsplit(address).path)
            if not urlsplit(address).scheme and path and not (page.parent / path).resolve().exists():
                missing.append((page.relative_to(site).as_posix(), address))
    assert [entry for entry in missing if entry[0] != "404.html"] == []  # that page is for servers


def test_the_rest_of_the_repository_is_shown_or_named(site: Path) -> None:
    assert list((site / "repository").rglob("flow.png"))
    text = (site / "wandb.html").read_text(encoding="utf-8")
    assert "<code>lit_simignore/tracking.py</code>" in text


@pytest.mark.parametrize(
    ("card", "page"),
    [
        ("Run on your own checkpoint", "your-model.html"),
        ("Add your pruner", "add-a-method.html"),
        ("Run on 8 GPUs", "many-gpus.html"),
        ("Read significance", "significance.html"),
    ],
)
def test_what_a_new_user_looks_for_is_one_click_away(site: Path, card: str, page: str) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(rf'<a href="{re.escape(page)}">{re.escape(card)}</a>', start)


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    anchors = {name.rsplit(".", 1)[-1] for name in re.findall(r'id="(lit_simignore[\w.]+)"', page)}
    assert {*ls.__all__, *ls._scanned()} - anchors == set()


def test_code_is_coloured_and_marked(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    (marked,) = re.findall(r'<div class="[^"]*\blong\b[^"]*"><pre>(.*?)</pre>', start, re.S)[:1]
    assert '<span class="nv">' in marked  # a variable of the shell, as Pygments names it
    assert "```" not in start
