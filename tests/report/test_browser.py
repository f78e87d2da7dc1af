"""The report in a real browser: its script runs, its policy holds, it asks for nothing, it looks like something."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from lit_simignore.report.html import write_report
from tests.report.fake_run import STANDARD, build_run
from tests.report.pages import Page

pytestmark = pytest.mark.browser

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # The browser has errands of its own; without names it cannot run them.
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
]
DARK = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
PROBE = """
<script>
const cards = () => [...document.querySelectorAll(".card")].filter((card) => !card.hidden).length;
const tiles = () => [...document.querySelectorAll(".tile")].filter((tile) => !tile.hidden).length;
const page = () => document.getElementById("page").textContent;
const seen = { start: [cards(), page()] };
document.getElementById("later").click();
document.getElementById("later").click();
seen.end = [cards(), page(), document.getElementById("later").disabled];
for (const name of ["flipped", "broken", "error"]) {
  document.querySelector(`input[value=${name}]`).click();
  const count = document.querySelector(`[data-count=${name}]`).textContent;
  seen[name] = [cards(), count, document.getElementById("found").value];
}
document.querySelector("input[value=all]").click();
const before = tiles();
document.querySelector(".methods input").click();
seen.tiles = [before, tiles()];
document.getElementById("overlay").click();
seen.overlay = getComputedStyle(document.querySelector(".dropped")).display;
const names = () => [...document.querySelectorAll("table.results tbody bdi")].map((name) => name.textContent);
document.querySelectorAll("table.results thead button")[0].click();
seen.sorted = names();
document.querySelectorAll("table.results thead button")[0].click();
seen.backwards = names();
document.title = JSON.stringify(seen);
</script>
"""


@dataclass
class Browser:
    """One Chromium; every call starts a fresh one with a profile of its own."""

    program: str
    folder: Path
    calls: int = 0

    def run(self, page: Path, *flags: str) -> tuple[str, str, Path]:
        """What it printed, its console messages, and its log of requests."""
        self.calls += 1
        profile = self.folder / f"profile-{self.calls}"
        log = self.folder / f"net-{self.calls}.json"
        command = [self.program, *FLAGS, f"--user-data-dir={profile}", f"--log-net-log={log}", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line), log

    def dom(self, page: Path) -> tuple[str, str, Path]:
        return self.run(page, "--dump-dom")

    def shot(self, page: Path, width: int, height: int, *flags: str) -> Image.Image:
        target = self.folder / f"shot-{self.calls}.png"
        self.run(page, f"--window-size={width},{height}", f"--screenshot={target}", *flags)
        return Image.open(target).convert("RGB")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine: the page is not looked at")
    return Browser(program, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(
        build_run(tmp_path_factory.mktemp("run") / "r", methods=STANDARD[:4], num_samples=80, num_shown=20)
    )


def _asked_by_pages(log: Path) -> list[str]:
    """Addresses that a page asked for; what the browser wants for itself has no origin."""
    text = log.read_text(encoding="utf-8").rstrip().rstrip(",")
    decoded = json.loads(text if text.endswith("}") else f"{text}]}}")
    found = [event.get("params", {}) for event in decoded["events"]]
    return [
        each["url"] for each in found if "url" in each and each.get("initiator", "not an origin") != "not an origin"
    ]


def test_the_script_runs_and_nothing_is_asked_for_or_refused(browser: Browser, report: Path) -> None:
    dom, console, log = browser.dom(report)
    page = Page(dom)
    assert ("html", "class", "scripted") in page.attributes
    assert "page 1 of 3" in page.text
    hidden = sum(tag == "article" and name == "hidden" for tag, name, _ in page.attributes)
    assert hidden == 20 - 8
    assert console == ""
    assert _asked_by_pages(log) == []


def test_the_log_would_have_shown_a_request(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "control.html"
    page.write_text('<!DOCTYPE html><img src="http://127.0.0.1:9/x.png">')
    assert "http://127.0.0.1:9/x.png" in _asked_by_pages(browser.dom(page)[2])


def test_the_policy_stops_what_escaping_would_have_missed(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = tmp_path / "injected.html"
    evil = '<img src="http://127.0.0.1:9/y.png" onerror="document.title=1"><script>document.title=2</script>'
    style = '<p style="color:red">x</p><link rel="stylesheet" href="http://127.0.0.1:9/z.css">'
    page.write_text(report.read_text(encoding="utf-8").replace("<main>", f"<main>{evil}{style}", 1), encoding="utf-8")
    dom, console, log = browser.dom(page)
    assert _asked_by_pages(log) == []
    assert "lit_simignore</title>" in dom
    assert len(re.findall("violates the following Content Security Policy", console)) >= 4


def test_hostile_data_run_no_script(browser: Browser, tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path / "evil", methods=STANDARD[:3], num_samples=24, num_shown=12, evil=True))
    dom, console, log = browser.dom(page)
    assert 'class="scripted"' in dom and console == "" and _asked_by_pages(log) == []


def test_filters_pages_methods_overlay_and_sorting_work(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = tmp_path / "probe.html"
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    page.write_text(source.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dom, console, _ = browser.dom(page)
    assert console == ""
    seen = json.loads(re.search(r"<title>(.*?)</title>", dom).group(1))  # type: ignore[union-attr]
    assert seen["start"] == [8, "page 1 of 3"]
    assert seen["end"] == [4, "page 3 of 3", True]
    broken = sum('data-flip="broken"' in card for card in source.split("<article")[1:])
    flipped = sum("data-flip=" in card for card in source.split("<article")[1:])
    assert 0 < flipped < 20 and seen["flipped"] == [min(flipped, 8), str(flipped), ""]
    assert broken > 0 and seen["broken"] == [min(broken, 8), str(broken), ""]
    assert seen["error"] == [0, "0", "no sample like that among the ones kept"]
    assert seen["tiles"] == [80, 60]
    assert seen["overlay"] == "none"
    assert sorted(seen["sorted"]) == sorted(seen["backwards"]) == sorted(method.name for method in STANDARD[:4])
    assert seen["sorted"] == seen["backwards"][::-1] and seen["backwards"][0] == "simignore@18"


def test_the_page_is_light_by_day_dark_by_night_and_fits_a_narrow_window(browser: Browser, report: Path) -> None:
    light, dark = browser.shot(report, 1280, 900), browser.shot(report, 1280, 900, *DARK)
    assert light.getpixel((3, 3)) == (0xF6, 0xF7, 0xF9) and dark.getpixel((3, 3)) == (0x0F, 0x15, 0x1C)
    for picture in (light, dark):
        assert len(picture.getcolors(maxcolors=1 << 24)) > 200
    narrow = browser.shot(report, 500, 1400)
    # Nothing reaches over the right edge: the margin there is bare ground.
    assert {narrow.getpixel((498, y)) for y in range(0, 1400, 7)} == {(0xF6, 0xF7, 0xF9)}
