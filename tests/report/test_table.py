"""The terminal's table: width, alignment, which columns are there, what the notes say."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.report.table import render_table
from lit_simignore.types import UserError
from tests.report.fake_run import EVIL, STANDARD, build_run, many_methods


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = build_run(tmp_path_factory.mktemp("run"), num_samples=120, num_shown=0, pictures=False)
    return json.loads((folder / "summary.json").read_text())


def _grid(text: str) -> list[str]:
    """Heading, rule and rows: the block around the line of dashes."""
    lines = text.splitlines()
    rule = next(index for index, line in enumerate(lines) if line and set(line) == {"-"})
    end = lines.index("", rule)
    return lines[rule - 2 : end]


def _row(name: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "n": 10, "accuracy": 0.5, "errors": 0, "unparsed": 0, "budget": {}, **values}


def test_all_that_was_asked_for_is_in_the_table(summary: dict[str, Any]) -> None:
    grid = _grid(render_table(summary))
    for word in ("acc.", "interval", "p Holm", "broken", "tokens", "mean", "kept %", "GFLOPs", "ms", "speed"):
        assert any(word in line for line in grid[:2]), word
    assert len(grid) == 3 + len(STANDARD)
    assert [line.split()[0] for line in grid[3:]] == [method.name for method in STANDARD]


def test_numbers_end_below_one_another_and_below_their_headings(summary: dict[str, Any]) -> None:
    def ends(line: str) -> list[int]:
        return [match.end() for match in re.finditer(r"\S+( \S+)*", line)][1:]

    _, heading, rule, *rows = _grid(render_table(summary))
    assert all(ends(row) == ends(rows[0]) for row in rows)
    # "p Holm" is the only heading of two words in the second line; names stand on the left.
    assert ends(heading) == ends(rows[0]) and ends(rows[0])[-1] == len(rule)


@pytest.mark.parametrize("number", [1, 2, 7, 40])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, number: int) -> None:
    folder = build_run(tmp_path, methods=many_methods(number), num_samples=30, num_shown=0, pictures=False)
    lines = render_table(json.loads((folder / "summary.json").read_text())).splitlines()
    assert max(map(len, lines)) <= 120


def test_names_cut_in_the_middle_stay_different(summary: dict[str, Any]) -> None:
    names = [f"simignore+eah@some.long.setting={index}@num_keep={budget}" for index in range(3) for budget in (8, 64)]
    rows = [{**summary["methods"][1], "name": name} for name in names]
    shown = [line[:40].split("  ")[0] for line in _grid(render_table({"run": {}, "methods": rows}))[3:]]
    assert len(set(shown)) == len(names)


def test_random_summaries_never_break_the_width() -> None:
    draw = random.Random(0)
    keys = ["accuracy", "ci_low", "ci_high", "delta", "p_value", "p_holm", "needed_recall"]
    for _ in range(200):
        methods = []
        for index in range(draw.randint(0, 9)):
            values = {key: draw.choice([None, draw.random(), 0, 1, float("nan"), "x", -3]) for key in keys}
            budget = {
                key: draw.choice([None, 1e7 * draw.random(), 2, 1e-9]) for key in ("input", "final", "layer_mean")
            }
            counts = {key: draw.choice([None, 0, 3, 10**7]) for key in ("fixed", "broken", "n", "errors", "unparsed")}
            name = draw.choice(["baseline", "m", "名前" * 9, "x" * 90, EVIL[draw.randrange(9)]]) + str(index)
            methods.append(
                {"name": name, **values, **counts, "budget": budget, "efficiency": draw.choice([None, {}, 3])}
            )
        text = render_table(
            {"run": {"model": "m" * draw.randint(0, 200), "complete": draw.random() < 0.5}, "methods": methods}
        )
        # Wide characters take two columns: that is checked on its own below.
        assert all(len(line) <= 120 for line in text.splitlines())


def test_wide_characters_count_twice() -> None:
    rows = [_row("baseline"), _row("日本語"), _row("e\u0301a\u0300")]
    lines = _grid(render_table({"methods": rows}))[3:]
    assert [line.index("50.0") for line in lines] == [10, 7, 12]


def test_columns_without_values_are_left_out() -> None:
    text = render_table({"run": {"model": "m"}, "methods": [_row("simignore")]})
    grid = _grid(text)
    assert grid[1].split() == ["method", "%"]
    assert grid[3].split() == ["simignore", "50.0"]
    assert "No baseline" in text


def test_equal_token_counts_are_one_column_and_unequal_ones_three(summary: dict[str, Any]) -> None:
    assert _grid(render_table(summary))[0].count("tokens") == 3
    early = {**summary, "methods": [row for row in summary["methods"] if not row["name"].startswith("fastv")]}
    heading = _grid(render_table(early))
    assert "visual" in heading[0] and heading[1].count("tokens") == 1


def test_small_models_are_shown_in_smaller_units() -> None:
    def unit(tflops: float) -> str:
        return _grid(render_table({"methods": [_row("a", budget={"prefill_tflops": tflops})]}))[1].split()[-1]

    assert [unit(3.2), unit(3.2e-4), unit(3.2e-7)] == ["TFLOPs", "GFLOPs", "MFLOPs"]


def test_terminal_codes_and_line_breaks_in_names_do_not_get_out() -> None:
    text = render_table({"run": {"model": "\x1b[2Jm\nn"}, "methods": [_row("\x1b]0;x\x07a\r\nb"), _row("\u202eabc")]})
    assert "\x1b" not in text and "\x07" not in text and "\r" not in text and "\u202e" not in text
    assert "\ufffd[2Jm n" in text


def test_errors_unread_outputs_and_missing_samples_are_told() -> None:
    rows = [_row("baseline", n=10), _row("simignore", n=7, errors=2, unparsed=1)]
    text = render_table({"run": {"num_samples": 12, "complete": False}, "methods": rows})
    assert "! Incomplete run: some method has only 9 of 12 samples" in text
    assert "Errors (left out of the accuracy): simignore 2." in text
    assert "Outputs without a readable answer: simignore 1." in text
    assert "other samples than the baseline's 10: simignore" in text


def test_too_few_flips_are_told() -> None:
    def text(fixed: int, broken: int) -> str:
        other = _row("m", p_value=0.06, p_holm=0.06, fixed=fixed, broken=broken)
        return render_table({"methods": [_row("baseline"), other]})

    assert "Fewer than 6 flips" in text(0, 5)
    assert "Fewer than 6 flips" not in text(0, 6)


def test_a_summary_of_nothing_is_said_in_a_sentence() -> None:
    assert "Nothing has been scored yet." in render_table({"run": {}, "methods": []})


@pytest.mark.parametrize("summary", [None, [], {}, {"methods": None}, {"methods": "abc"}])
def test_what_is_no_summary_is_refused_in_one_line(summary: Any) -> None:
    with pytest.raises(UserError) as caught:
        render_table(summary)
    assert "\n" not in str(caught.value)


def test_what_merged_rows_carry_has_a_column_only_where_something_is_merged() -> None:
    plain = {"methods": [_row("baseline", needed_recall=1.0), _row("stride", needed_recall=0.5)]}
    merging = {"methods": [*plain["methods"], _row("pooling", needed_recall=0.25, needed_carried=1.0)]}
    assert "merged %" not in render_table(plain)
    grid = _grid(render_table(merging))
    assert "merged %" in grid[1] and "100.0" in grid[-1].split()


def test_the_numbers_that_a_benchmark_is_quoted_by_have_a_table_of_their_own() -> None:
    rows = [
        _row("baseline", extra={"mean_f1": 0.8571, "score_of_all": 1511.25, "hidden": 1.0}),
        _row("random", extra={"mean_f1": None}),
    ]
    text = render_table({"run": {"headline": ["mean_f1", "score_of_all", "absent", 3]}, "methods": rows})
    block = next(part for part in text.split("\n\n") if "f1" in part).splitlines()
    assert block[0].split() == ["mean", "score", "of"]
    assert block[1].split() == ["method", "f1", "all"]
    assert [line.split() for line in block[3:]] == [["baseline", "0.857", "1,511"], ["random", "-", "-"]]
    for odd in ({"headline": "mean_f1"}, {"headline": None}, {}):
        assert "hidden" not in render_table({"run": odd, "methods": rows})
        assert "f1" not in render_table({"run": odd, "methods": rows})


def test_samples_answered_in_smaller_batches_are_told() -> None:
    from lit_simignore.report.notes import warnings
    from lit_simignore.report.results import cost_table
    from lit_simignore.report.summary import read_summary

    view = read_summary({"run": {}, "methods": [{"name": "baseline", "n": 9, "split": 4}, {"name": "b", "n": 9}]})
    assert "Answered in smaller batches, for lack of memory: baseline 4." in warnings(view)
    assert ">split<" in str(cost_table(view))
    assert ">split<" not in str(cost_table(read_summary({"methods": [{"name": "baseline", "n": 9}]})))
