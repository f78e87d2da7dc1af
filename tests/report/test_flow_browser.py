"""Information flow in a real browser: the slider moves every map, and heat is drawn where the arrays have it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lit_simignore.report.html import write_report
from tests.report.fake_flow import add_flow
from tests.report.fake_run import STANDARD, build_run
from tests.report.test_browser import Browser, _asked_by_pages
from tests.report.test_browser import browser as browser

pytestmark = pytest.mark.browser

PROBE = """
<script>
const slider = document.getElementById("layer");
const state = () => ({
  name: document.getElementById("layer-name").textContent,
  boxes: [...new Set([...document.querySelectorAll("svg.heat")].map((heat) => heat.getAttribute("viewBox")))],
  lines: [...document.querySelectorAll(".at-layer")].filter((line) => !line.hidden).map((line) => line.dataset.at),
});
const seen = [state()];
for (const at of [3, 0]) {
  slider.value = at;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  seen.push(state());
}
document.title = JSON.stringify(seen);
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_run(tmp_path_factory.mktemp("run") / "r", methods=STANDARD[:4], num_samples=40, num_shown=6)
    add_flow(folder)
    return write_report(folder)


def test_the_policy_holds_and_nothing_is_asked_for(browser: Browser, report: Path) -> None:
    dom, console, log = browser.dom(report)
    assert console == "" and _asked_by_pages(log) == []
    assert 'id="layer-name"' in dom


def test_one_slider_moves_all_maps_and_their_lines(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = tmp_path / "probe.html"
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    page.write_text(source.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dom, console, _ = browser.dom(page)
    assert console == ""
    before, third, first = json.loads(re.search(r"<title>(.*?)</title>", dom).group(1))  # type: ignore[union-attr]
    with np.load(report.parent / "flow" / "averages.npz") as found:
        start = int(found["on_needed"].mean(axis=0)[0].argmax())
    assert before["name"] == str(start) and before["boxes"] == [f"0 {12 * start} 12 12"]
    assert third == {"name": "3", "boxes": ["0 36 12 12"], "lines": ["3"] * 9}
    assert first == {"name": "0", "boxes": ["0 0 12 12"], "lines": ["0"] * 9}


def test_heat_lies_where_the_array_has_it(browser: Browser, tmp_path: Path) -> None:
    """One hot token in the lower right quarter of the map, and no other: there, and only there, the page is yellow."""
    folder = build_run(tmp_path / "r", methods=STANDARD[:2], num_samples=20, num_shown=1)
    add_flow(folder, num_samples=1)
    with np.load(folder / "flow" / "sample-00.npz") as found:
        arrays = {name: found[name] for name in found.files}
    arrays["saliency"][:] = 0
    arrays["saliency"][:, 9 * 12 + 8] = 1
    arrays["attention"][:] = 0
    arrays["cam"][:] = 0
    np.savez(folder / "flow" / "sample-00.npz", **arrays)
    page = tmp_path / "cut.html"
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", write_report(folder).read_text("utf-8"))
    only = "<style>main > *, #flow > :not(.flow-card) { display: none } #flow { display: block !important }</style>"
    page.write_text(source.replace("</body>", f"{only}</body>"), encoding="utf-8")
    pixels = np.asarray(browser.shot(page, 1280, 420), dtype=int)
    hot = (pixels[..., 0] > 215) & (pixels[..., 1] > 215) & (pixels[..., 2] < 205) & (pixels[..., 2] > 110)
    rows, cols = np.nonzero(hot)
    assert len(rows) > 150
    # the fourth of four panels in 1280 - 2 * 24 - 2 * 17 pixels, and in it the ninth of twelve columns
    assert cols.min() > 980 and cols.max() < 1235
    left, width = 947, 288
    assert abs((np.median(cols) - left) / width * 12 - 8.5) < 0.6
    assert np.ptp(rows) < 40 and np.ptp(cols) < 40


def test_the_page_with_maps_fits_a_narrow_window(browser: Browser, report: Path) -> None:
    narrow = browser.shot(report, 500, 4000)
    assert {narrow.getpixel((498, y)) for y in range(0, 4000, 7)} == {(0xF6, 0xF7, 0xF9)}
