"""``python eval.py analysis=flow`` as a user types it: the bundled model, a few scenes, once more at no cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_simignore.cli import eval_main
from tests.report.pages import read_page


@pytest.mark.slow
def test_the_report_shows_where_answers_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "analysis=flow", "methods=[baseline,simignore]", "benchmark.num_scenes=4", "efficiency.samples=0",
        "trainer.accelerator=cpu", "trainer.progress=false", f"run.dir={tmp_path}", "run.name=run",
        "flow.samples=6", "flow.shown=2", "flow.truncation=6", "flow.layers=[1,3]",
    ]  # fmt: skip
    assert eval_main(asked) == 0
    run_dir = tmp_path / "run"
    assert f"report: {run_dir / 'report.html'}" in capsys.readouterr().out
    page = read_page(run_dir / "report.html")
    assert page.classes["flow-card"] == 2 and page.classes["heat"] == 6 and page.classes["kept"] == 2
    assert "Where the answers come from" in page.text
    parts = json.loads((run_dir / "flow" / "flow.json").read_text(encoding="utf-8"))["parts"]
    assert [point["layer_idx"] for point in parts["truncation"]["cliff"]["curve"]] == [1, 3]
    found = {path.name for path in (run_dir / "flow").iterdir()}
    assert found >= {"shares.svg", "sinks.svg", "needed.svg", "truncation.svg", "averages.npz", "truncation.npz"}
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "flow").glob("*.npz")}
    assert eval_main(asked) == 0
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "flow").glob("*.npz")} == before
