"""Runs of today reproduce what the experiments have committed: selections exactly, accuracies within a few flips.

Only the first 16 samples are asked. Processors round differently, so one of a method's 16 scores may differ from the
committed one; which visual tokens it keeps may not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lit_simignore import cli
from lit_simignore.metrics.records import read_run

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "experiments").glob("*/*pico.json"))
QUICK = "simignore_attribution"
NUM_SAMPLES = 16
ALLOWED_FLIPS = 1


def overlay(path: Path) -> str:
    part = path.name.removesuffix("pico.json").rstrip(".")
    return path.parent.name + (f"/{part}" if part else "")


@pytest.fixture(scope="module")
def tables(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tables")


def test_at_least_six_experiments_have_committed_a_run() -> None:
    names = {path.parent.name for path in COMMITTED}
    assert "simignore_table2" in names and len(names) >= 6


def quick_or_slow(path: Path) -> Any:
    return pytest.param(path, marks=[] if path.parent.name == QUICK else pytest.mark.slow, id=overlay(path))


@pytest.mark.parametrize("path", [quick_or_slow(path) for path in COMMITTED])
def test_the_command_reproduces_what_was_committed(
    path: Path, tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    known = json.loads(path.read_text(encoding="utf-8"))
    keys = [f"experiment={overlay(path)}", "model=pico", "analysis=none", f"benchmark.limit={NUM_SAMPLES}"]
    more = [f"report.samples={NUM_SAMPLES}", f"run.dir={tmp_path}", "run.name=run", "trainer.progress=false"]
    assert cli.eval_main([*keys, *more, "--traceback"]) == 0
    run = read_run(tmp_path / "run")
    assert set(run.methods) == set(known["scores"])
    place = {sample: number for number, sample in enumerate(known["samples"])}
    asked = set(run.of("baseline"))
    assert asked <= set(place) and set(known["kept"]) <= asked and known["kept"]
    for method, scores in known["scores"].items():
        records = run.of(method)
        for sample, kept in known["kept"].items():
            assert tables.ranges(records[sample].kept or ()) == kept[method], f"{method} keeps other tokens of {sample}"
        flips = [sample for sample, record in records.items() if tables.digit(record) != scores[place[sample]]]
        assert len(flips) <= ALLOWED_FLIPS, f"{method}: other scores for {flips}"
