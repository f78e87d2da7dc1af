"""The report of every kind of run folder: whole, broken off, without pictures, without baseline, very large."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lit_simignore.report.html as report_html
from lit_simignore.report.html import write_report
from lit_simignore.report.samples import build_gallery
from lit_simignore.types import UserError
from tests.report.fake_run import STANDARD, build_run, many_methods
from tests.report.pages import read_page


def _edit_records(folder: Path, edit: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    for path in folder.glob("predictions-*.jsonl"):
        records = [edit(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records if record is not None))


def test_the_page_has_the_finding_the_table_the_figures_and_the_samples(tmp_path: Path) -> None:
    path = write_report(build_run(tmp_path, num_samples=60, num_shown=5))
    page = read_page(path)
    assert path == tmp_path / "report.html"
    assert "Of 8 methods," in page.text and "python eval.py budgets=[72,36,18]" in page.text
    assert page.classes["card"] == 5 and page.classes["tile"] == 5 * len(STANDARD)
    assert page.classes["figure-box"] == 3
    assert page.tags["image"] == 5
    assert all(part in page.values("id") for part in ("results", "figures", "samples", "settings"))


def test_kept_tokens_are_drawn_over_each_method_but_not_over_the_baseline(tmp_path: Path) -> None:
    page = read_page(write_report(build_run(tmp_path, methods=STANDARD[:3], num_samples=10, num_shown=4)))
    assert page.classes["tokens"] == 12 and page.classes["dropped"] == 8
    assert "simignore@36: image 1, 36 tokens kept" in page.values("aria-label")


def test_flips_are_those_of_the_scores(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=4, num_shown=4)
    scores = {"baseline": [1.0, 0.0, 1.0, None], "simignore@72": [0.0, 1.0, 1.0, 1.0]}
    seen: dict[str, int] = dict.fromkeys(scores, 0)

    def edit(record: dict[str, Any]) -> dict[str, Any]:
        score = scores[record["method"]][seen[record["method"]]]
        seen[record["method"]] += 1
        return {**record, "score": score}

    _edit_records(tmp_path, edit)
    page = read_page(write_report(tmp_path))
    assert page.values("data-flip") == ["broken", "fixed"]
    assert page.values("data-state") == [
        *("right", "wrong", "wrong", "right"),
        *("right", "right", "unscored", "right"),
    ]


def test_a_later_answer_replaces_an_error_of_the_same_sample(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:1], num_samples=2, num_shown=2)
    _edit_records(tmp_path, lambda record: {**record, "error": "boom", "score": None})
    first = json.loads((tmp_path / "predictions-0-a.jsonl").read_text().splitlines()[0])
    again = {**first, "error": None, "score": 1.0, "output": "better"}
    (tmp_path / "predictions-2-c.jsonl").write_text(json.dumps(again) + "\n" + '{"sample_id": "torn')
    page = read_page(write_report(tmp_path))
    assert page.values("data-state") == ["right", "error"]
    assert "better" in page.text and "boom" in page.text


def test_an_incomplete_run_without_pictures_says_both(tmp_path: Path) -> None:
    build_run(tmp_path, num_samples=20, num_shown=6, pictures=False, complete=False)
    _edit_records(tmp_path, lambda record: record if record["method"] != "eah" else None)
    page = read_page(write_report(tmp_path))
    assert "Incomplete run" in page.text and "no pictures" in page.text
    # Without an index of pictures the first samples are shown all the same.
    assert page.classes["card"] == 20 and page.tags["image"] == 0


def test_a_run_without_records_has_a_table_and_no_samples(tmp_path: Path) -> None:
    build_run(tmp_path, num_samples=10, num_shown=3)
    for path in tmp_path.glob("predictions-*"):
        path.unlink()
    page = read_page(write_report(tmp_path))
    assert page.classes["card"] == 0 and page.tags["form"] == 0
    assert "no records to show" in page.text


def test_damaged_records_cost_the_samples_but_not_the_report(tmp_path: Path) -> None:
    build_run(tmp_path, num_samples=10, num_shown=3)
    (tmp_path / "predictions-1-b.jsonl").write_text('{"broken\n{"sample_id": "a", "method": "b"}\n')
    page = read_page(write_report(tmp_path))
    assert "The records cannot be read: predictions-1-b.jsonl, line 1" in page.text


def test_nothing_but_a_summary_is_enough(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"methods": []}')
    page = read_page(write_report(tmp_path))
    assert "Nothing has been scored yet." in page.text and "No method has been run yet." in page.text


def test_without_a_baseline_accuracies_stand_alone(tmp_path: Path) -> None:
    page = read_page(write_report(build_run(tmp_path, methods=STANDARD[1:4], num_samples=20, num_shown=2)))
    assert "No baseline in this run" in page.text
    assert "p Holm" not in page.text and "points" not in page.text.replace("differences and p", "")
    assert not page.values("data-flip")


def test_questions_without_images_have_no_pictures_and_no_complaint(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=6, num_shown=3, pictures=False)
    ids = [json.loads(line)["sample_id"] for line in (tmp_path / "predictions-0-a.jsonl").read_text().splitlines()]
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "index.json").write_text(json.dumps({sample: [] for sample in ids[:4]}))
    _edit_records(tmp_path, lambda record: {**record, "num_visual_tokens": 0, "num_kept": 0, "kept": []})
    page = read_page(write_report(tmp_path))
    assert page.classes["card"] == 2 and page.classes["pictures"] == 0 and page.classes["missing"] == 0


def test_several_images_share_the_kept_tokens(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=4, num_shown=2)
    index = json.loads((tmp_path / "media" / "index.json").read_text())
    for entries in index.values():
        entries[0].update(rows=6, cols=12)
        entries.append({"file": "media/0001.png", "rows": 8, "cols": 9})
    (tmp_path / "media" / "index.json").write_text(json.dumps(index))
    _edit_records(
        tmp_path, lambda record: {**record, "kept": [0, 71, 72, 143] if record["method"] != "baseline" else None}
    )
    page = read_page(write_report(tmp_path))
    said = [value for value in page.values("aria-label") if value.startswith("simignore@72:")]
    assert said == ["simignore@72: image 1, 2 tokens kept", "simignore@72: image 2, 2 tokens kept"] * 2
    # The second sample's images are one file: it is embedded once.
    assert page.tags["image"] == 2


def test_grids_that_do_not_fit_the_tokens_are_not_drawn(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=4, num_shown=2)
    _edit_records(tmp_path, lambda record: {**record, "num_visual_tokens": 150})
    page = read_page(write_report(tmp_path))
    assert page.classes["dropped"] == 0
    assert "144 grid cells for 150 visual tokens" in page.text


@pytest.mark.parametrize(
    "odd",
    [
        {"kept": "abc", "choices": 7, "num_kept": None, "num_visual_tokens": "x", "answer": {"a": 1}, "parsed": 3},
        {"kept": [True, 1.5, None], "choices": [None, ["x"]], "error": {"why": 1}, "kind": "", "prompt": ""},
        {"kept": [10**30, -5], "choices": {"a": 1}, "answer": None, "parsed": ["B"], "needed_recall": "x"},
    ],
)
def test_odd_values_in_records_are_borne(tmp_path: Path, odd: dict[str, Any]) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=4, num_shown=2)
    _edit_records(tmp_path, lambda record: {**record, **odd})
    assert read_page(write_report(tmp_path)).classes["tile"] == 4


def test_forty_methods_stay_under_a_few_megabytes_and_eight_are_switched_on(tmp_path: Path) -> None:
    path = write_report(build_run(tmp_path, methods=many_methods(40), num_samples=40, num_shown=24, grid=(24, 24)))
    page = read_page(path)
    assert path.stat().st_size < 4_500_000
    boxes = [value for tag, name, value in page.attributes if tag == "input" and name == "checked"]
    assert len(boxes) == 8 + 2  # the filter "all" and the overlay are switched on as well


def test_more_samples_than_fit_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "build_gallery", lambda folder: build_gallery(folder, size_limit=100_000))
    path = write_report(build_run(tmp_path, num_samples=40, num_shown=40))
    page = read_page(path)
    assert 2 < page.classes["card"] < 40
    assert f"{40 - page.classes['card']:,} more samples left out" in page.text
    assert page.tags["image"] == page.classes["card"]


def test_ten_thousand_records_take_seconds_and_little_memory(tmp_path: Path) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=5000, num_shown=8)
    tracemalloc.start()
    started = time.perf_counter()
    path = write_report(tmp_path)
    assert time.perf_counter() - started < 20
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert path.stat().st_size < 400_000


def test_writing_again_replaces_the_file_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_run(tmp_path, methods=STANDARD[:2], num_samples=4, num_shown=2)
    first = write_report(tmp_path).read_text()
    assert write_report(tmp_path).read_text() == first

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("lit_simignore.report.document.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == first
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"methods": 3}', "\udcff", "[" * 100_000])
def test_a_folder_without_a_readable_summary_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
