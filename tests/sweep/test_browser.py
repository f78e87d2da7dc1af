"""The page of a sweep in Chromium: its script, its policy, its figures, in light, dark and narrow windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.sweep.summary import write_summary
from tests.sweep.fake_sweep import build_sweep

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_summary(build_sweep(tmp_path_factory.mktemp("sweep") / "s"))


@pytest.fixture
def page(browser: Any, path: Path) -> Iterator[Any]:
    opened = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    opened.complaints = []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda request: opened.complaints.append(request.url) if "file:" not in request.url else None)
    opened.goto(path.as_uri())
    yield opened
    assert opened.complaints == []
    opened.context.close()


def drag(page: Any, axis: int, share_from: float, share_to: float) -> None:
    box = page.locator(f".brush[data-axis='{axis}']").bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + share_from * box["height"])
    page.mouse.down()
    page.mouse.move(x, box["y"] + share_to * box["height"], steps=4)
    page.mouse.up()


def test_a_range_on_an_axis_leaves_its_lines_and_rows(page: Any) -> None:
    page.locator("#coordinates").scroll_into_view_if_needed()
    drag(page, 1, 0.0, 0.2)  # the largest budget alone
    assert page.inner_text("#picked") == "3 of 9 lines"
    kept = page.locator("tbody tr:not(.out) bdi").all_inner_texts()
    assert [text for text in kept if "@" in text] == ["simignore@72", "random@72", "stride@72"]
    assert page.locator(".line.out").count() == 6
    drag(page, 0, 0.0, 0.1)  # and the first methods= alone
    assert page.inner_text("#picked") == "1 of 9 lines"
    box = page.locator(".brush[data-axis='0']").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.inner_text("#picked") == "3 of 9 lines"
    page.click("#unpick")
    assert page.locator(".out").count() == 0 and page.locator("#unpick").is_hidden()


def test_a_row_lights_up_its_line_and_its_points(page: Any) -> None:
    page.locator("table.results tbody tr").nth(4).hover()
    assert page.locator(".line.hot").count() == 1 and page.locator(".point.hot").count() == 2
    assert "random@72" in page.locator(".line.hot title").text_content()
    page.locator("h1").hover()
    assert page.locator(".hot").count() == 0


def test_the_table_sorts_by_accuracy(page: Any) -> None:
    page.locator("table.results thead button", has_text="accuracy").click()
    rows = "[...document.querySelectorAll('table.results tbody tr')]"
    shown = page.evaluate(f"{rows}.map(row => Number(row.querySelector('td b').innerText))")
    assert len(shown) == 10 and shown == sorted(shown, reverse=True) and shown[0] > shown[-1]


def test_without_its_script_everything_is_there(browser: Any, path: Path) -> None:
    opened = browser.new_context(java_script_enabled=False).new_page()
    opened.goto(path.as_uri())
    assert opened.locator(".line").count() == 9 and opened.locator("table.results tbody tr").count() == 10
    assert opened.locator(".scripted-only").is_hidden() and opened.locator(".brush").first.is_hidden()
    opened.context.close()


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(246, 247, 249)"), ("dark", "rgb(15, 21, 28)")])
@pytest.mark.parametrize("width", [420, 1280])
def test_it_fits_the_window_by_day_and_by_night(
    browser: Any, path: Path, scheme: str, ground: str, width: int
) -> None:
    opened = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    opened.goto(path.as_uri())
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.context.close()
