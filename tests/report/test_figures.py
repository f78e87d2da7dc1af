"""Figures are well-formed SVG, show every method, and never let one label cover another."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lit_simignore.report import axis, figures
from lit_simignore.report.labels import Box, around, place_labels
from lit_simignore.report.palette import looks, series_of
from tests.report.fake_run import EVIL, STANDARD, FakeMethod, build_run, many_methods

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = [figures.headline_svg, figures.tokens_svg, figures.time_svg, figures.kinds_svg]


def _summary(folder: Path, **settings: Any) -> dict[str, Any]:
    built = build_run(folder, num_shown=0, pictures=False, **{"num_samples": 60, **settings})
    return json.loads((built / "summary.json").read_text())


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _summary(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def evil_summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    methods = [
        *STANDARD[:2],
        *(FakeMethod(f"{text} {index}", 0.1, 0.1, 36, 40, 1.0) for index, text in enumerate(EVIL)),
    ]
    return _summary(tmp_path_factory.mktemp("evil"), methods=methods, evil=True)


@pytest.mark.parametrize("draw", PICTURES)
def test_figures_are_well_formed_whatever_the_names(draw: Any, summary: Any, evil_summary: Any) -> None:
    for given in (summary, evil_summary):
        root = ElementTree.fromstring(draw(given))
        assert root.tag == f"{SVG}svg"
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert tags <= {"svg", "g", "title", "text", "line", "path", "rect", "circle", "polyline"}
        names = {name for element in root.iter() for name in element.attrib}
        assert not {name for name in names if name.startswith("on") or name in ("href", "style")}


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize(
    "methods",
    [
        [],
        [{"name": "baseline"}],
        [{"name": "m", "accuracy": 1.0}],
        [{"name": "baseline", "accuracy": 0, "budget": {"layer_mean": 0}, "by_kind": {"a": {}, "b": {"n": "x"}}}],
        [{"name": f"m{i}", "accuracy": 0.5, "n": 1, "budget": {"layer_mean": 5}} for i in range(3)],
        [{"name": "m", "accuracy": 9e99, "ci_low": -4, "ci_high": 1e300, "budget": {"layer_mean": 1e-300}}] * 2,
        [{"name": "baseline", "accuracy": 0.5}, {"name": "m", "accuracy": 0.5, "fixed": 0, "broken": 0, "p_value": 1}],
    ],
)
def test_odd_summaries_give_a_figure_or_none(draw: Any, methods: list[dict[str, Any]]) -> None:
    drawn = draw({"methods": methods})
    if drawn is not None:
        root = ElementTree.fromstring(drawn)
        assert not re.search(r"\b(nan|inf)\b", drawn)
        assert float(root.attrib["width"]) < 5000 and float(root.attrib["height"]) < 5000


def test_the_headline_names_every_series_and_its_verdict(summary: Any) -> None:
    words = {element.text for element in ElementTree.fromstring(figures.headline_svg(summary)).iter(f"{SVG}text")}
    assert {series_of(method.name) for method in STANDARD} <= words
    assert {method.name for method in STANDARD[1:]} <= words
    assert "▼ worse" in words and "○ not distinguishable" in words


def test_forty_methods_are_all_in_the_legend(tmp_path: Path) -> None:
    drawn = figures.tokens_svg(_summary(tmp_path, methods=many_methods(40)))
    words = {element.text for element in ElementTree.fromstring(str(drawn)).iter(f"{SVG}text")}
    assert {f"method-{index:02d}" for index in range(39)} <= words


def test_text_stays_within_the_picture(summary: Any) -> None:
    root = ElementTree.fromstring(figures.headline_svg(summary))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for group in root.iter(f"{SVG}text"):
        assert 0 <= float(group.attrib["x"]) <= width and 0 <= float(group.attrib["y"]) <= height


def test_methods_that_differ_in_budget_only_are_one_series() -> None:
    assert series_of("simignore@64") == series_of("simignore@num_keep=128") == "simignore"
    assert series_of("simignore@similarity=cosine@64+eah@layer_idx=1") == "simignore@similarity=cosine+eah@layer_idx=1"
    assert series_of("simignore+fastv@fastv.num_keep=8") == "simignore+fastv"
    found = looks(["baseline", "a@1", "b@1", "a@2"])
    assert found["a@1"] == found["a@2"] != found["b@1"]
    assert found["baseline"].index is None


def test_series_differ_in_colour_and_marker_for_dozens_of_methods() -> None:
    found = [look for name, look in looks([f"m{index}" for index in range(40)]).items() if name]
    assert len({(look.colour, look.marker(0, 0, 4).split(' d="')[1].split('"')[0]) for look in found}) == 40
    assert len({look.dash for look in found[:5]}) == 5


def test_labels_never_cover_markers_or_one_another() -> None:
    draw, bounds = random.Random(5), Box(0, 0, 400, 260)
    placed_any = False
    for _ in range(30):
        points = [(draw.uniform(10, 390), draw.uniform(10, 250)) for _ in range(draw.randint(1, 25))]
        markers = [around(x, y, 6) for x, y in points]
        wanted = [(draw.uniform(20, 90), 15.0, [point]) for point in points]
        places = [place.box for place in place_labels(wanted, markers, [], bounds) if place is not None]
        for index, box in enumerate(places):
            assert bounds.holds(box)
            assert not any(box.meets(other) for other in [*markers, *places[:index]])
        placed_any |= len(places) > 5
    assert placed_any


def test_a_label_alone_stands_right_beside_its_point() -> None:
    (place,) = place_labels([(50, 15, [(100, 100)])], [around(100, 100, 6)], [], Box(0, 0, 400, 200))
    assert place is not None and place.leader is None
    assert place.box.left == pytest.approx(109) and place.box.top == pytest.approx(92.5)


@pytest.mark.parametrize(("low", "high"), [(40, 80), (0, 100), (71.2, 71.4), (99.9, 100), (0, 0), (100, 100), (3, 3)])
def test_linear_axes_have_round_ticks_around_their_values(low: float, high: float) -> None:
    found = axis.linear([low, high], 0, 100, lowest=0, highest=100)
    assert 2 <= len(found.ticks) <= 12
    assert found.low <= low + 1e-9 and found.high >= high - 1e-9 and 0 <= found.low < found.high <= 100 + 1e-9
    assert found.place(found.low) == pytest.approx(0) and found.place(found.high) == pytest.approx(100)


@pytest.mark.parametrize("values", [[0, 0], [-1e-12, 1e-12], [0.01, 0.02]])
def test_an_axis_of_differences_that_are_all_but_zero_is_two_points_wide(values: list[float]) -> None:
    found = axis.linear(values, 0, 150, lowest=-100, highest=100, wanted=4, narrowest=2.0)
    assert found.high - found.low >= 2 and found.low <= min(values) and found.high >= max(values)
    assert len(found.ticks) <= 7


def test_logarithmic_axes_step_by_halves_from_the_top() -> None:
    found = axis.halving([36, 72, 576], 576, 0, 400)
    assert found.ticks == (576, 288, 144, 72, 36)
    gaps = [found.place(a) - found.place(b) for a, b in zip(found.ticks, found.ticks[1:], strict=False)]
    assert gaps == pytest.approx([gaps[0]] * 4)
