"""The page and the tables over all runs of a sweep, read back as a reader would."""

from __future__ import annotations

import csv
import html
import json
import random
import re
from pathlib import Path

import pytest

from lit_simignore.report.sweep_pareto import front
from lit_simignore.report.sweep_table import to_csv
from lit_simignore.report.sweep_view import SweepView
from lit_simignore.sweep.summary import read_sweep_folder, render_summary, write_summary
from lit_simignore.types import UserError
from tests.report.fake_run import STANDARD, build_run, holm
from tests.report.pages import Page, read_page
from tests.sweep.fake_sweep import build_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sweep(tmp_path_factory.mktemp("sweep") / "s")


@pytest.fixture(scope="module")
def view(folder: Path) -> SweepView:
    return read_sweep_folder(folder)


def naive_front(points: list[tuple[float | None, float | None]]) -> set[int]:
    """Every point against every other one."""
    found = set()
    for index, (cost, worth) in enumerate(points):
        if cost is None or worth is None:
            continue
        beaten = False
        for other_cost, other_worth in points:
            if other_cost is None or other_worth is None:
                continue
            no_worse = other_cost <= cost and other_worth >= worth
            beaten |= no_worse and (other_cost, other_worth) != (cost, worth)
        if not beaten:
            found.add(index)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_the_front_is_what_comparing_every_pair_gives(seed: int) -> None:
    draw = random.Random(seed)
    ties = draw.choice([3, 6, 1000])

    def one() -> float | None:
        return draw.choice([None, *(draw.randrange(ties) / 7 for _ in range(5))])

    points = [(one(), one()) for _ in range(draw.randrange(25))]
    assert front(points) == naive_front(points)


def test_p_values_are_corrected_over_all_jobs(view: SweepView) -> None:
    raw = [row.row.p_value for row in view.compared]
    assert len(raw) == 9 and None not in raw
    assert [row.row.p_holm for row in view.compared] == pytest.approx(holm(raw))  # type: ignore[arg-type]


def test_the_untouched_model_is_shown_once(view: SweepView) -> None:
    assert [len(row.jobs) for row in view.rows] == [9] + [1] * 9
    assert view.rows[0].row.is_baseline and not view.compared[0].row.is_baseline
    assert view.varied == ("methods", "budget", "lr") and view.constants == {"fixed": 3, "benchmark.limit": "200"}


def test_untouched_models_that_answer_otherwise_stay_apart(tmp_path: Path) -> None:
    for number, samples in enumerate((40, 40, 60)):
        build_run(tmp_path / f"run-{number}", methods=STANDARD[:2], num_samples=samples, num_shown=0, pictures=False)
    view = read_sweep_folder(tmp_path)
    assert [len(row.jobs) for row in view.rows if row.row.is_baseline] == [2, 1] and not view.one_place


def test_every_number_of_the_page_is_that_of_the_run_folders(folder: Path) -> None:
    page = read_page(write_summary(folder))
    plain = json.loads((folder / "sweep.json").read_text())
    assert (plain["total"], plain["complete"], len(plain["rows"])) == (9, 9, 10)
    for row in plain["rows"][1:]:
        summary = json.loads((folder / row["jobs"][0] / "summary.json").read_text())
        source = next(entry for entry in summary["methods"] if entry["name"] == row["method"])
        assert row["accuracy"] == source["accuracy"] and row["p_value"] == source["p_value"]
        assert row["prefill_tflops"] == source["budget"]["prefill_tflops"]
        assert row["time_share"] == pytest.approx(1 / source["efficiency"]["speedup_prefill"])
        assert f"{100 * row['accuracy']:.1f}" in page.text and row["jobs"][0] in page.text
    assert "9 of 9 jobs complete" in page.text and "after Holm over 9 comparisons" in page.text
    for title in ("From parameters to accuracy", "Accuracy against FLOPs", "Accuracy against measured time"):
        assert title in page.text
    assert page.classes["line"] == 9 and page.classes["point"] == 20


def test_figures_and_rows_refer_to_each_other(folder: Path) -> None:
    source = write_summary(folder).read_text()
    rows = re.findall(r'<tr class="row-\w+" data-r="(\d+)"', source)
    lines = re.findall(r'<g class="line" data-r="(\d+)"', re.sub(r"(<g) [^>]*?(class=\"line\")", r"\1 \2", source))
    assert rows == [str(place) for place in range(10)] and sorted(lines) == [str(place) for place in range(1, 10)]


def test_lines_end_at_the_accuracy_of_their_row(folder: Path, view: SweepView) -> None:
    """Heights on the last axis are a straight line over accuracies, the best one on top."""
    source = write_summary(folder).read_text()
    drawn = re.findall(r'data-r="(\d+)" data-y="([^"]*)"', source)
    found = {int(place): [float(y) for y in ys.split()] for place, ys in drawn}
    points = [(view.rows[place].row.accuracy or 0.0, ys[-1]) for place, ys in found.items()]
    (low, bottom), (high, top) = min(points), max(points)
    assert top < bottom
    for accuracy, y in points:
        assert y == pytest.approx(bottom + (accuracy - low) / (high - low) * (top - bottom), abs=0.15)
    logarithmic = sorted((row.values["lr"], found[place][2]) for place, row in enumerate(view.rows) if place)
    steps = [after[1] - before[1] for before, after in zip(logarithmic, logarithmic[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 8, abs=0.2) and steps[0] < 0


def test_a_half_finished_sweep_says_how_far_it_is(tmp_path: Path) -> None:
    build_sweep(tmp_path / "s", complete=4, failed=[1], samples=60)
    page = read_page(write_summary(tmp_path / "s"))
    assert "3 of 9 jobs complete, 1 failed, 5 not run yet" in page.text
    assert "code 1: error: </script><script>alert(2)</script>" in page.text
    assert "Jobs that are not complete" in page.text and "unfinished" in page.text
    assert "3 of 9 jobs complete" in render_summary(tmp_path / "s")


def test_a_sweep_without_any_result_has_a_page_too(tmp_path: Path) -> None:
    page = read_page(write_summary(build_sweep(tmp_path / "s", complete=0)))
    assert "0 of 9 jobs complete" in page.text and "No job has results yet." in page.text


def test_run_folders_without_a_ledger_are_told_apart_by_their_configurations(tmp_path: Path) -> None:
    """As W&B's agents leave them."""
    for name, keep in (("b1", 9), ("a2", 18)):
        build_run(tmp_path / name, methods=STANDARD[:2], num_samples=30, num_shown=0, pictures=False)
        method = f"{{simignore: {{simignore: {{num_keep: {keep}}}}}}}"
        config = f"model: {{name: pico}}\nmethod: {method}\nrun: {{name: {name}}}\n"
        (tmp_path / name / "config.yaml").write_text(config)
    view = read_sweep_folder(tmp_path)
    assert view.varied == ("method.simignore.simignore.num_keep",)
    assert [(row.jobs[0], row.values) for row in view.compared] == [
        ("a2", {"method.simignore.simignore.num_keep": 18}), ("b1", {"method.simignore.simignore.num_keep": 9}),
    ]  # fmt: skip


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a sweep"):
        write_summary(tmp_path)


def test_hostile_names_values_and_logs_stay_text(tmp_path: Path) -> None:
    path = write_summary(build_sweep(tmp_path / "s", evil=True, failed=[2], samples=30))
    clean = read_page(write_summary(build_sweep(tmp_path / "c", failed=[2], samples=30)))
    evil: Page = read_page(path)
    assert evil.tags["script"] == clean.tags["script"] == 1 and evil.tags["img"] == 0
    assert evil.raw["script"] == clean.raw["script"] and evil.raw["style"] == clean.raw["style"]
    assert not [name for _, name, _ in evil.attributes if name.startswith("on")]
    assert "<img src=x onerror=alert(1)>" in evil.text
    terminal = render_summary(tmp_path / "s")
    assert "\x1b" not in terminal and "\u202e" not in terminal


def test_the_terminals_table_is_narrow_and_complete(folder: Path) -> None:
    lines = render_summary(folder).splitlines()
    assert max(map(len, lines)) <= 120
    for name in ("baseline", "simignore@72", "random@18"):
        assert sum(line.startswith(name) for line in lines) == 1
    assert any(line.startswith("random@18") and re.search(r"<0\.001 -", line) for line in lines)


def test_csv_has_a_line_per_row_and_no_formulas(tmp_path: Path) -> None:
    build_sweep(tmp_path / "s", samples=30)
    log = tmp_path / "s" / "jobs.jsonl"
    log.write_text(log.read_text().replace("[baseline,stride]", "=HYPERLINK(1)"))
    rows = list(csv.DictReader(to_csv(read_sweep_folder(tmp_path / "s")).splitlines()))
    assert len(rows) == 10 and rows[1]["param:budget"] == "72" and rows[-1]["param:methods"] == "'=HYPERLINK(1)"
    assert float(rows[1]["accuracy"]) == read_sweep_folder(tmp_path / "s").rows[1].row.accuracy


def test_marks_say_which_differences_are_significant(folder: Path, view: SweepView) -> None:
    source = html.unescape(write_summary(folder).read_text())
    table = source[source.index("<table") : source.index("</table>")]
    kinds = [row.row.p_holm is not None and row.row.p_holm < 0.05 for row in view.compared]
    assert 0 < sum(kinds) < 9
    assert table.count("▼") + table.count("▲") == sum(kinds) and table.count("○") == 9 - sum(kinds)
