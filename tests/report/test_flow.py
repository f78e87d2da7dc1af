"""The part of the report that shows information flow: the right numbers, nothing that data could break, no script."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_simignore.report.cluster_picture import ablation_table, cluster_name
from lit_simignore.report.flow_folder import read_flow
from lit_simignore.report.flow_section import flow_figures
from lit_simignore.report.heat import sprite
from lit_simignore.report.html import write_report
from lit_simignore.report.layer_lines import Line, frame, line_figure
from lit_simignore.report.palette import Look
from tests.report.fake_flow import LAYERS, add_flow
from tests.report.fake_run import EVIL, STANDARD, build_run
from tests.report.pages import Page, read_page
from tests.report.test_escaping import ATTRIBUTES, TAGS

FLOW_TAGS = {*TAGS.split(), "lineargradient", "stop", "i", "h4", "article"}
FLOW_ATTRIBUTES = {
    *ATTRIBUTES.split(), "data-at", "data-rows", "data-cols", "hidden", "min", "max", "step", "offset", "stop-color",
    "preserveaspectratio", "patterntransform",
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = build_run(tmp_path / "run", methods=STANDARD[:4], num_samples=40, num_shown=6)
    add_flow(folder)
    return folder


def test_the_section_says_what_the_arrays_hold(run_dir: Path) -> None:
    page = read_page(write_report(run_dir))
    with np.load(run_dir / "flow" / "averages.npz") as found:
        image = 100 * found["shares"].mean(axis=0)[:, 1]
        needed = 100 * found["on_needed"].mean(axis=0)
    most, least = int(image.argmax()), int(image.argmin())
    assert f"most in layer {most} ({image[most]:.0f}%), least in layer {least} ({image[least]:.0f}%)" in page.text
    assert f"puts {needed.max():.0f}% of its heat on what the answer needs, {needed.max() / 5:.1f} times" in page.text
    assert "From layer 2 on, all visual tokens can go at a loss of at most 2 points of accuracy" in page.text
    assert "cliff: layer 2 (95%: 1 to beyond)" in page.text and "certain from layer 4 on" in page.text
    assert page.classes["flow-card"] == 3 and page.classes["heat"] == 3 * 3
    assert page.classes["at-layer"] == 3 * 3 * LAYERS
    hidden = sum(name == "hidden" for tag, name, _ in page.attributes if tag == "p")
    assert hidden == 3 * 3 * (LAYERS - 1), "without the script one layer is shown"
    assert page.text.count("nothing leads from here to the answer") == 3


def test_a_line_of_a_map_is_its_share_on_the_needed_patches(run_dir: Path) -> None:
    page = read_page(write_report(run_dir))
    with np.load(run_dir / "flow" / "sample-01.npz") as found:
        layer = found["saliency"][2]
        on = 100 * layer[[5, 6, 17]].sum() / layer.sum()
    assert f"{on:.0f}% of the heat on what is needed (even: 2%)" in page.text


def test_figures_lie_beside_the_arrays_as_svg_of_their_own(run_dir: Path) -> None:
    write_report(run_dir)
    found = {path.stem: path.read_text(encoding="utf-8") for path in (run_dir / "flow").glob("*.svg")}
    assert set(found) == {"shares", "needed", "truncation", "sinks"}
    assert all(text.startswith("<svg") and "xmlns=" in text and "<title>" in text for text in found.values())
    assert "decoder layer (0-based)" in found["shares"] and "%" in found["sinks"]


def test_a_run_without_analysis_has_no_such_section(tmp_path: Path) -> None:
    page = read_page(write_report(build_run(tmp_path / "run", methods=STANDARD[:2], num_samples=20, num_shown=2)))
    assert "Where the answers come from" not in page.text and ("section", "id", "flow") not in page.attributes


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "evil", methods=STANDARD[:3], num_samples=24, num_shown=6, evil=True)
    add_flow(folder, num_samples=6, text="".join(EVIL).encode("utf-8", "replace").decode())
    page = read_page(write_report(folder))
    assert page.classes["flow-card"] == 6
    assert set(page.tags) <= FLOW_TAGS
    assert {name for _, name, _ in page.attributes} <= FLOW_ATTRIBUTES
    assert not page.declarations
    assert all(value.startswith(("data:image/", "#")) for value in page.values("href"))


def _broken(run_dir: Path) -> Iterator[tuple[str, str]]:
    """Ways of spoiling the folder, each with what the page then says."""
    index = run_dir / "flow" / "flow.json"
    good = json.loads(index.read_text(encoding="utf-8"))

    def write(**parts: object) -> None:
        index.write_text(json.dumps({"parts": {**good["parts"], **parts}}), encoding="utf-8")

    index.write_text("{", encoding="utf-8")
    yield "flow/flow.json cannot be read (JSONDecodeError)", "all"
    index.write_text('{"parts": 3}', encoding="utf-8")
    yield "flow/flow.json cannot be read (TypeError)", "all"
    averages = good["parts"]["averages"]
    for file in ("../../secret.npz", "gone.npz", 7, "averages.txt"):
        write(averages={**averages, "file": file})
        yield "flow, averages: cannot be read", "averages"
    (run_dir / "flow" / "objects.npz").write_bytes(_npz(layers=np.array([{}], dtype=object)))
    write(averages={**averages, "file": "objects.npz"})
    yield "flow, averages: cannot be read", "averages"
    write(truncation={**good["parts"]["truncation"], "baseline": "<b>"})
    yield "flow, truncation: cannot be read", "truncation"
    sample = good["parts"]["samples"]["samples"][0]
    write(samples={"samples": [{**sample, "grids": [[3, 3]]}]})
    yield "flow, samples: cannot be read", "samples"


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(run_dir: Path) -> None:
    seen = 0
    for words, part in _broken(run_dir):
        page = read_page(write_report(run_dir))
        assert words in page.text
        assert (page.classes["flow-card"] > 0) == (part not in ("all", "samples"))
        seen += 1
    assert seen == 9


def test_samples_that_were_left_out_are_told(run_dir: Path) -> None:
    index = run_dir / "flow" / "flow.json"
    found = json.loads(index.read_text(encoding="utf-8"))
    found["parts"]["averages"]["left_out"] = {"s7": "<b>no such file", "s8": "another"}
    index.write_text(json.dumps(found), encoding="utf-8")
    page = read_page(write_report(run_dir))
    assert "2 of the averaged samples left out; the first one, s7: <b>no such file" in page.text


def test_pictures_that_do_not_fit_the_maps_are_left_out(run_dir: Path) -> None:
    index = run_dir / "media" / "index.json"
    media = json.loads(index.read_text(encoding="utf-8"))
    for entries in media.values():
        entries[0]["rows"] = 6
    index.write_text(json.dumps(media), encoding="utf-8")
    page = read_page(write_report(run_dir))
    assert page.classes["heat"] == 0 and page.text.count("The numbers are in flow/sample-0") == 3


# -- pieces


def test_a_sprite_holds_every_layer_scaled_to_its_own_maximum() -> None:
    maps = np.zeros((3, 2, 4))
    maps[0, 1, 2], maps[0, 0, 0], maps[1, 0, 3] = 5.0, 2.5, 0.001
    made = sprite(maps)
    decoded = Image.open(io.BytesIO(base64.b64decode(made.uri.split(",")[1])))
    assert decoded.size == (4, 6)
    grey = np.asarray(decoded.convert("RGB").convert("L"), dtype=int)
    hottest, half, other = grey[1, 2], grey[0, 0], grey[2, 3]
    assert hottest == other == grey.max() and grey[4:].max() == grey.min()
    assert grey.min() < half < hottest, "lightness follows the value, so a print in grey can be read"
    alpha = np.asarray(decoded)[..., 3]
    assert alpha[1, 2] > alpha[0, 0] > alpha[4, 0]


def test_lines_stand_where_their_values_are() -> None:
    values = [10.0, float("nan"), 30.0, 50.0]
    axes = frame([0, 1, 2, 3], values, ["image"], 560, 330)
    drawn, _ = line_figure([0, 1, 2, 3], [Line("image", Look(0), values)], "share (%)")
    path = re.search(r'd="(M[^"]+)"[^>]*class="s0 stroke"', drawn)
    assert path is not None
    points = [(letter, float(x), float(y)) for letter, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", path.group(1))]
    assert [letter for letter, _, _ in points] == ["M", "M", "L"], "a gap where nothing is known"
    expected = [(axes.across.place(k), axes.up.place(values[k])) for k in (0, 2, 3)]
    assert [(x, y) for _, x, y in points] == [pytest.approx(place, abs=0.06) for place in expected]
    assert points[0][2] > points[1][2] > points[2][2]


def test_many_layers_have_few_ticks_and_names_keep_apart() -> None:
    layers = list(range(32))
    lines = [Line(f"line {k}", Look(k), [50.0] * 32) for k in range(5)]
    drawn, _ = line_figure(layers, lines, "share (%)")
    page = Page(drawn)
    assert sum(str(layer) in page.text for layer in range(0, 32, 2)) >= 8
    heights = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>line \d<', drawn)]
    assert len(heights) == 5 and min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 14


def test_the_table_of_clusters_lists_pairs_only_where_their_members_do_not_tell() -> None:
    answers = [([], "A", ""), ([0], "B", "needed"), ([1], "A", "neutral"), ([2], "A", "neutral")]
    answers += [([0, 1], "B", "needed"), ([1, 2], "C", "needed")]
    table = ablation_table([{"clusters": c, "output": a, "verdict": v} for c, a, v in answers])
    text = Page(table).text
    assert "without B and C" in text and "without A and B" not in text
    assert [cluster_name(k) for k in (0, 25, 26)] == ["A", "Z", "AA"]


def test_figures_need_no_samples(run_dir: Path) -> None:
    view = read_flow(run_dir)
    assert view is not None and not view.problems
    view.samples.clear()
    assert set(flow_figures(view)) == {"shares", "needed", "truncation", "sinks"}
