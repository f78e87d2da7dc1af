"""The script that compares with lmms-eval: what it computes from times, and that it compares like with like only."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(load_script) -> ModuleType:
    return load_script("performance/against_lmms_eval")


def _turns(script: ModuleType, *seconds: tuple[float, float]) -> list:
    said = {"0": "a", "1": "b"}
    return [script.Turn(script.Work(wall=wall, cpu=cpu), said, {"pope_accuracy": 0.5}) for cpu, wall in seconds]


def test_ratios_are_within_a_round_and_start_up_is_added_once(script: ModuleType) -> None:
    found = {
        "theirs": _turns(script, (10, 20), (12, 30), (8, 10)),
        "ours": _turns(script, (5, 5), (4, 6), (4, 5)),
        "pruned": _turns(script, (2, 2), (2, 2), (2, 2)),
    }
    theirs, ours, pruned = script.rows(found, {"theirs": 6, "ours": 3}, tokens=16, batch=8)
    # each round's own ratio: 2, 3, 2 by the processor; 4, 5, 2 by the clock
    assert ours == [
        "16", "ours", "8", "2.00", "2.50", "2.00 (2.00-3.00)", "4.00 (2.00-5.00)",
        # (6 + 10) / (3 + 5), (6 + 12) / (3 + 4), (6 + 8) / (3 + 4)
        "2.00 (2.00-2.57)",
        # 1000 samples are 500 times as many
        f"{(6 + 5000) / (3 + 2500):.2f} (2.00-3.00)",
    ]  # fmt: skip
    assert theirs[2:7] == ["1", "5.00", "10.00", "1.00 (1.00-1.00)", "1.00 (1.00-1.00)"]
    assert pruned[5] == "5.00 (4.00-6.00)"
    assert all(len(row) == len(script.HEADLINE) for row in (theirs, ours, pruned))
    assert len(script.table([theirs, ours, pruned]).splitlines()) == 5


def test_different_answers_or_scores_are_no_comparison(script: ModuleType) -> None:
    (mine,) = _turns(script, (1, 1))
    script._check_same(mine, mine)
    other = script.Turn(mine.work, {"0": "a", "1": "c"}, mine.scores)
    with pytest.raises(SystemExit, match="1 answers differ.*'b' and 'c'"):
        script._check_same(mine, other)
    with pytest.raises(SystemExit, match="1 answers differ"):
        script._check_same(mine, script.Turn(mine.work, {"0": "a"}, mine.scores))
    with pytest.raises(SystemExit, match="scores differ"):
        script._check_same(mine, script.Turn(mine.work, mine.said, {"pope_accuracy": 0.25}))


@pytest.mark.slow
def test_the_script_runs_and_writes_its_table(script: ModuleType, tmp_path, capsys) -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (see .ci/lmms.txt)")
    sizes = [
        "--size",
        "tiny",
        "--samples",
        "4",
        "--tokens",
        "2",
        "--batches",
        "1",
        "2",
        "--rounds",
        "1",
        "--startups",
        "1",
    ]
    script.main([*sizes, "--write", str(tmp_path / "out.md")])
    written = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert written.removeprefix("# Against lmms-eval\n\n").strip() in capsys.readouterr().out
    assert [line.split(" | ")[1] for line in written.splitlines() if line.startswith("| 2 ")] == list(script.SIDES)
