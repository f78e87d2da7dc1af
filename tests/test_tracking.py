"""A finished run in other people's tools: read back from the files that they write."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from lit_simignore.tracking import (
    METRICS,
    build_logger,
    check_logger,
    curve_points,
    flat_metrics,
    log_summary,
    metrics_of,
)
from lit_simignore.types import UserError


def row(name: str, tokens: float, accuracy: float | None) -> dict[str, Any]:
    return {
        "name": name, "n": 10, "errors": 0, "accuracy": accuracy, "ci_low": 0.1, "p_holm": None,
        "budget": {"total": 16, "final": tokens}, "by_kind": {"odd": {"n": 5, "accuracy": 0.2}},
        "extra": {"chair_i": 0.5}, "efficiency": None,
    }  # fmt: skip


SUMMARY = {
    "run": {"name": "x", "model": "tiny"},
    "methods": [
        row("baseline", 16, 0.5),
        row("simignore@8", 8, 0.4),
        row("simignore@2", 2, None),
        row("stride", 2, 0.1),
    ],
}


def test_only_known_numbers_are_logged_and_under_full_names() -> None:
    found = flat_metrics(SUMMARY["methods"][1])  # type: ignore[index]
    assert found["eval/simignore@8/accuracy"] == 0.4
    assert found["eval/simignore@8/visual_tokens_final"] == 8
    assert found["eval/simignore@8/accuracy_by_kind/odd"] == 0.2
    assert found["eval/simignore@8/extra/chair_i"] == 0.5
    assert not {"eval/simignore@8/p_holm", "eval/simignore@8/prefill_ms"} & set(found)


def test_a_curve_is_a_family_by_ascending_tokens() -> None:
    assert curve_points(SUMMARY["methods"]) == [("stride", 2, 0.1), ("simignore", 8, 0.4), ("baseline", 16, 0.5)]  # type: ignore[arg-type]


def test_a_csv_has_one_line_per_method(tmp_path: Path) -> None:
    for _ in range(2):  # a continued run replaces it
        logger = build_logger("csv", tmp_path)
        assert logger is not None
        log_summary(logger, SUMMARY)
    rows = csv_rows(tmp_path)
    assert [entry["method"] for entry in rows] == ["baseline", "simignore@8", "simignore@2", "stride"]
    assert [entry["accuracy"] for entry in rows] == ["0.5", "0.4", "", "0.1"]


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_continued_training_goes_on_in_its_csv(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Every line is on disk at once; what is computed again replaces what the killed attempt wrote."""
    first = build_logger("csv", tmp_path)
    for step in (9, 19, 29):
        first.log_metrics({"loss": 1.0 / step}, step=step)  # type: ignore[union-attr]
    assert [entry["step"] for entry in csv_rows(tmp_path)] == ["9", "19", "29"]  # and is killed
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.0")
    second = build_logger("csv", tmp_path)
    second.log_metrics({"loss": 0.5, "other": 2.0}, step=19)  # type: ignore[union-attr]
    second.log_metrics({"loss": 0.25}, step=29)  # type: ignore[union-attr]
    found = [(entry["step"], entry["loss"], entry["other"]) for entry in csv_rows(tmp_path)]
    assert found == [("9", str(1.0 / 9), ""), ("19", "0.5", "2.0"), ("29", "0.25", "")]
    assert not list(recwarn)


def test_any_other_logger_gets_numbers_and_curves() -> None:
    class Notes(DummyLogger):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[dict[str, float], int | None]] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
            self.seen.append((metrics, step))

    logger = Notes()
    log_summary(logger, SUMMARY)
    assert ({"curve/simignore": 0.4}, 8) in logger.seen
    assert logger.seen[0][0]["eval/stride/accuracy"] == 0.1


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not signed in anywhere."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.mark.slow
def test_wandb_holds_table_chart_and_numbers_without_a_connection(tmp_path: Path, nobody: None) -> None:
    folder = tmp_path / "run"
    logger = build_logger("wandb", folder, run_id="abc", tags=["a"])  # no offline: nobody is signed in
    assert logger is not None
    log_summary(logger, SUMMARY, {"flow-shares": "<svg xmlns='http://www.w3.org/2000/svg'></svg>"})
    (run_dir,) = (folder / "wandb").glob("offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--summary", "--json", str(run_dir)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["summary"]["eval/baseline/accuracy"] == 0.5
    assert found["config"]["run"]["model"] == "tiny"
    assert found["exit_code"] == 0
    (table,) = run_dir.glob("files/media/table/methods_*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["method", *METRICS]
    assert content["data"][1][:2] == ["simignore@8", 0.4]
    (figure,) = run_dir.glob("files/media/html/figures/flow-shares_*.html")
    assert figure.read_text() == "<svg xmlns='http://www.w3.org/2000/svg'></svg>"
    assert (folder / "wandb" / "artifacts" / "staging").is_dir()
    assert "WANDB_DATA_DIR" not in os.environ


def test_tensorboard_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=tensorboard needs the package tensorboard"):
        check_logger("tensorboard")


def test_a_logger_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'wandb'"):
        build_logger("wandbb", tmp_path)
    assert build_logger("none", tmp_path) is None
    assert metrics_of({"name": "x"}) == {}
