"""Nothing that comes from data, models or file names may become markup, script or a request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from lit_simignore.report import html as report_html
from lit_simignore.report.formats import clean
from lit_simignore.report.html import write_report
from lit_simignore.report.markup import element, escape
from tests.report.fake_run import EVIL, STANDARD, FakeMethod, build_run
from tests.report.pages import Page, read_page

TAGS = """
    html head meta title style body main header section article figure figcaption div span p h1 h2 h3 pre bdi b small
    table thead tbody tr th td form fieldset legend label input select option output nav button ol li dl dt dd details
    summary script svg defs image pattern rect path use g line circle polyline text
"""
ATTRIBUTES = """
    lang charset http-equiv content name class id role tabindex title scope aria-label aria-hidden aria-live dir type
    value checked autocomplete data-v data-m data-k data-state data-flip data-count xmlns viewbox width height x y x1
    x2 y1 y2 cx cy r rx d points href transform fill fill-opacity fill-rule stroke stroke-width stroke-opacity
    stroke-dasharray stroke-linejoin paint-order font-family font-size font-weight text-anchor preserveaspectratio
    patternunits patterntransform
"""


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("evil")
    methods = [
        *STANDARD[:3],
        *(FakeMethod(f"m{index} {text}", 0.1, 0.1, 36, 36, 1.0) for index, text in enumerate(EVIL)),
    ]
    return read_page(write_report(build_run(folder / "run", methods=methods, num_samples=40, num_shown=12, evil=True)))


def test_only_elements_and_attributes_of_the_report_itself_are_on_the_page(evil_page: Page) -> None:
    assert set(evil_page.tags) <= set(TAGS.split())
    assert {name for _, name, _ in evil_page.attributes} <= set(ATTRIBUTES.split())
    assert not evil_page.declarations


def test_no_attribute_is_an_event_handler_a_style_or_a_source(evil_page: Page) -> None:
    names = {name for _, name, _ in evil_page.attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"src", "style", "srcset", "action", "formaction", "xlink:href", "srcdoc"}


def test_references_lead_into_the_page_or_into_embedded_pictures(evil_page: Page) -> None:
    for value in evil_page.values("href"):
        assert re.fullmatch(r"#i[0-9a-f]{12}|data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", value), value[:80]
    for value in evil_page.values("fill"):
        assert re.fullmatch(r"none|#[0-9A-Fa-f]{3,6}|url\(#hatch\d+\)", value), value


def test_every_hostile_string_is_there_as_text(evil_page: Page) -> None:
    words = " ".join(evil_page.text.split())
    for hostile in EVIL[:6]:
        assert " ".join(clean(hostile).split()) in words


def test_script_and_style_are_the_package_s_own_to_the_letter(evil_page: Page) -> None:
    folder = Path(report_html.__file__).parent
    assert evil_page.raw["script"] == [(folder / "page.js").read_text(encoding="utf-8")]
    assert evil_page.raw["style"] == [(folder / "page.css").read_text(encoding="utf-8")]
    for text in (*evil_page.raw["script"], *evil_page.raw["style"]):
        assert "</" not in text and "<!--" not in text


def test_the_policy_allows_these_two_by_hash_and_nothing_from_outside(evil_page: Page) -> None:
    policy = next(value for tag, name, value in evil_page.attributes if tag == "meta" and value.startswith("default"))
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(evil_page.raw[kind][0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy and "http" not in policy


def test_the_page_names_no_address_but_that_of_the_svg_standard(tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path, num_samples=20, num_shown=4)).read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\"' )]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page and "url(" in page
    assert not re.search(r"url\((?!#hatch)", page)


def test_the_file_is_utf8_without_characters_that_no_page_may_hold(tmp_path: Path) -> None:
    methods = (*STANDARD[:2], FakeMethod(EVIL[6] + EVIL[8], 0, 0, 36, 36))
    page = write_report(build_run(tmp_path, methods=methods, num_samples=20, evil=True)).read_bytes().decode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]", page)


def test_long_outputs_are_cut_and_say_so(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:1], num_samples=2, num_shown=2)
    records = [json.loads(line) for line in (tmp_path / "predictions-0-a.jsonl").read_text().splitlines()]
    records[0]["output"] = "ab" * 500_000
    (tmp_path / "predictions-0-a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = write_report(tmp_path)
    assert page.stat().st_size < 200_000
    assert "998,800 more characters" in read_page(page).text


def test_elements_escape_text_and_attributes_and_leave_markup_alone() -> None:
    inner = element("b", "<&>\"'")
    outer = element("p", inner, title='"><i>', data_v=None, hidden=True, checked=False)
    assert outer == '<p title="&quot;&gt;&lt;i&gt;" hidden=""><b>&lt;&amp;&gt;&quot;&#x27;</b></p>'
    assert escape(escape("<")) == "&lt;"
    assert escape("a\x00\ud800\x1b") == "a\ufffd\ufffd\ufffd"


def test_a_string_from_data_is_never_taken_for_markup() -> None:
    class Sneaky(str):
        __slots__ = ()

    assert element("p", Sneaky("<b>")) == "<p>&lt;b&gt;</p>"
