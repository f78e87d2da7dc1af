"""The page driven in Chromium, against the real server and the bundled model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.explore.conftest import PATIENCE_S, Server

pytestmark = pytest.mark.browser

ANSWERED = """() => document.getElementById('result').getAttribute('aria-busy') === 'false'
    && /^(Answered|Not|Stopped)/.test(document.getElementById('status').textContent)"""


@dataclass
class Visit:
    """One open page, and everything that it asked for or complained about."""

    page: Any
    server: Server
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def settle(self) -> None:
        self.page.wait_for_function(ANSWERED)

    def kept(self) -> int:
        return int(self.page.get_attribute(".answers .tile:last-child", "data-kept"))

    def wait_for_kept(self, count: int) -> None:
        self.page.wait_for_selector(f".answers .tile:last-child[data-kept='{count}']")
        self.settle()

    def overlay(self) -> str:
        return self.page.get_attribute(".answers .tile:last-child .dropped", "d")

    def problem(self) -> str:
        self.page.wait_for_selector("#problem:not([hidden])")
        self.settle()
        return self.page.inner_text("#problem")

    def choose(self, data: bytes, name: str = "mine.png") -> None:
        self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def visit(browser: Any, server: Server, **options: Any) -> Visit:
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    seen = Visit(page, server)
    page.on("request", lambda request: seen.asked.append(request.url))
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(f"{server.address}/")
    seen.settle()
    return seen


@pytest.fixture(scope="module")
def opened(browser: Any, server: Server) -> Iterator[Visit]:
    seen = visit(browser, server)
    yield seen
    seen.page.context.close()


@pytest.fixture()
def at(opened: Visit) -> Iterator[Visit]:
    """The page as it is after loading; and whatever a test did there, it asked nobody else for anything."""
    opened.asked.clear()
    opened.complaints.clear()
    opened.page.reload()
    opened.settle()
    yield opened
    elsewhere = [url for url in opened.asked if not url.startswith((opened.server.address, "data:"))]
    assert opened.asked and elsewhere == []


def png(size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "green").save(buffer, "PNG")
    return buffer.getvalue()


def test_the_page_opens_with_an_answer_and_without_a_complaint(at: Visit) -> None:
    assert at.page.inner_text("h1") == "pico"
    assert "pico knows 89 words" in at.page.inner_text("summary >> nth=0")
    assert at.page.locator(".answers .tile").count() == 2
    assert "72 of 144 visual tokens" in at.page.inner_text(".answers")
    assert "The right answer is: yes" in at.page.inner_text("#status")
    assert at.complaints == []


def test_the_slider_changes_the_tokens_over_the_image(at: Visit) -> None:
    before = at.overlay()
    at.page.focus("#slider")
    for _ in range(8):
        at.page.keyboard.press("ArrowLeft")
    at.wait_for_kept(64)
    after = at.overlay()
    assert at.page.input_value("#num_keep") == "64" and after != before
    at.page.keyboard.press("End")
    at.wait_for_kept(144)
    assert at.page.locator(".answers .dropped").count() == 0
    assert "Same answer as the untouched model." in at.page.inner_text("#result")
    assert at.complaints == []


@pytest.mark.slow
def test_of_many_moves_of_the_slider_the_last_one_is_shown(at: Visit) -> None:
    for value in (10, 20, 30, 40, 25, 15, 35):
        at.page.fill("#num_keep", str(value))
        at.page.evaluate("document.getElementById('wish').requestSubmit()")
    at.wait_for_kept(35)
    assert "simignore@35" in at.page.inner_text("#status") and at.page.is_hidden("#problem")


def test_an_image_of_ones_own_is_loaded_and_asked_about(at: Visit) -> None:
    at.choose(png())
    at.page.wait_for_selector("#own:checked", state="attached")
    at.settle()
    assert at.page.get_attribute("#own-picture img", "alt") == "loaded image, 60 × 40 pixels"
    at.page.fill("#question", "Is there a dragon in the image?")
    at.page.press("#question", "Enter")
    at.page.wait_for_selector("#result >> text=does not know")
    assert "“dragon”" in at.page.inner_text("#result")
    at.page.check("#images input >> nth=1", force=True)
    at.page.wait_for_selector("#suggestions button >> nth=4")
    at.settle()
    assert at.page.input_value("#question") == "Is there a dragon in the image?", "what was typed stays"


@pytest.mark.parametrize(
    ("data", "words"),
    [(png()[:70], "the loaded file"), (b"\0" * (2 << 20), "at most 1 are taken")],
    ids=["broken", "too large"],
)
def test_a_bad_file_is_a_message_and_the_page_goes_on(at: Visit, data: bytes, words: str) -> None:
    at.choose(data)
    assert words in at.problem()
    at.page.fill("#num_keep", "12")
    at.wait_for_kept(12)
    assert at.page.is_hidden("#problem")


def test_an_empty_question_is_a_message(at: Visit) -> None:
    at.page.fill("#question", "   ")
    at.page.click("#ask")
    assert at.problem().startswith("a question is needed")
    at.page.click("#suggestions button >> nth=1")
    at.page.wait_for_selector("#problem", state="hidden")


@pytest.mark.slow
def test_a_count_beyond_the_image_is_said(at: Visit) -> None:
    at.page.fill("#num_keep", "500")
    at.wait_for_kept(144)
    assert "num_keep is 500, and the image has 144 visual tokens" in at.page.inner_text("#result")
    at.page.fill("#num_keep", "-5")
    assert "num_keep must be a whole number" in at.problem()


@pytest.mark.slow
def test_methods_are_switched_and_one_that_the_model_lacks_says_why(at: Visit) -> None:
    at.page.select_option("#prune", "pyramiddrop")
    at.page.wait_for_selector(".stages .tile >> nth=2")
    assert at.page.input_value("#prune-settings") == "layers=[2,3,4]"
    at.page.select_option("#prune", "text-only")
    at.wait_for_kept(0)
    assert at.page.is_hidden("#count")
    at.page.select_option("#prune", "cdpruner")
    assert "CDPruner needs a text tower" in at.problem()
    at.page.select_option("#prune", "")
    at.page.wait_for_selector("#problem", state="hidden")
    assert at.page.locator(".answers .tile").count() == 1
    at.page.select_option("#heads", "eah")
    at.page.wait_for_selector(".edits:has-text('EAH in layer 1: winning head')")
    assert at.page.inner_text("#heads-about") != "" and at.page.locator(".answers .tile").count() == 2


@pytest.mark.slow
def test_settings_of_a_method_are_explained_and_applied(at: Visit) -> None:
    at.page.select_option("#prune", "fastv")
    at.page.click("#prune-more summary")
    assert "0-based first layer that sees fewer tokens" in at.page.inner_text("#prune-more dl:not([hidden])")
    at.page.fill("#prune-settings", "layer_idx=3")
    at.page.press("#prune-settings", "Enter")
    at.page.wait_for_selector("#status:has-text('fastv@layer_idx=3@72')")
    at.page.fill("#prune-settings", "layer_idx=<img/src=x/onerror=alert(1)>")
    at.page.press("#prune-settings", "Enter")
    assert "<img/src=x" in at.problem()
    assert at.page.locator("#problem img").count() == 0


def test_the_layer_slider_moves_all_maps_and_stays_where_it_is(at: Visit) -> None:
    at.page.focus("#layer")
    at.page.keyboard.press("Home")
    views = "[...document.querySelectorAll('svg.heat')].map(heat => heat.getAttribute('viewBox'))"
    assert at.page.evaluate(views) == ["0 0 12 12"] * 2
    at.page.keyboard.press("ArrowRight")
    assert at.page.evaluate(views) == ["0 12 12 12"] * 2
    assert at.page.locator(".at-layer:not([hidden])").count() == 2
    maps = "[...document.querySelectorAll('.offstage image[id^=h]')].map(image => image.getAttribute('href'))"
    before = at.page.evaluate(maps)
    at.page.fill("#num_keep", "20")
    at.wait_for_kept(20)
    after = at.page.evaluate(maps)
    assert (after[0], after[1] == before[1]) == (before[0], False), "the baseline's flow stays, the method's changes"
    assert at.page.evaluate(views) == ["0 12 12 12"] * 2 and at.page.inner_text("#layer-name") == "1"
    at.page.select_option("#flow", "cam")
    at.page.wait_for_selector("svg.heat >> nth=3")
    at.page.select_option("#flow", "none")
    at.page.wait_for_selector("#flow-maps, svg.heat", state="detached")


@pytest.mark.slow
def test_stop_gives_up_and_a_server_that_is_gone_is_said(at: Visit) -> None:
    at.page.route("**/ask", lambda route: None)
    at.page.click("#ask")
    at.page.click("#stop:enabled")
    at.page.wait_for_selector("#status:has-text('Stopped.')")
    at.page.unroute("**/ask")
    at.page.route("**/ask", lambda route: route.abort())
    at.page.click("#ask")
    assert at.problem() == "The server does not answer. Is it still running?"
    at.page.unroute("**/ask")
    at.page.click("#ask")
    at.page.wait_for_selector("#problem", state="hidden")


@pytest.mark.slow
def test_everything_is_reached_by_the_keyboard(at: Visit) -> None:
    reached = set()
    at.page.focus("#images input >> nth=0")
    for _ in range(40):
        reached.add(at.page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
        at.page.keyboard.press("Tab")
    assert {"image", "file", "question", "ask", "prune", "slider", "num_keep", "heads"} <= reached


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 400])
def test_the_page_fits_the_window(browser: Any, server: Server, width: int, tmp_path: Path) -> None:
    seen = visit(browser, server, viewport={"width": width, "height": 900})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    shot = Image.open(io.BytesIO(seen.page.screenshot(full_page=True))).convert("RGB")
    pixels = np.asarray(shot)
    # The margins are bare ground from top to bottom, and what lies between them is not.
    assert (pixels[:, width - 4] == pixels[2, width - 4]).all() and (pixels[:, 4] == pixels[2, 4]).all()
    assert len(np.unique(pixels[::9, ::9].astype(int) @ [65536, 256, 1])) > 500
    seen.page.context.close()
