"""The experiment's table from made-up records: means over seeds, paired differences, and what was not run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "finetune-pico" / "run.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("finetune_pico", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, methods: Any, score: Any) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"sample_id": f"s{i}", "method": method, "group_id": f"g{i}", "answer": "A", "score": score(i)}
        for method in methods
        for i in range(40)
    ]
    (folder / "predictions-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text("{}")


def test_the_table_pairs_means_over_seeds_with_no_training(script: Any, tmp_path: Path) -> None:
    write(tmp_path / "untrained", script.METHODS, lambda i: float(i % 2))
    write(tmp_path / "simignore-0" / "after", script.METHODS, lambda i: float(i % 4 > 0))
    write(tmp_path / "simignore-1" / "after", script.METHODS, lambda i: 1.0)
    lines = script.table(tmp_path, [0, 1, 2]).splitlines()
    assert lines[2].startswith("| no training | 1 | 50.0 [") and "+0.0 [+0.0, +0.0]" in lines[2]
    trained = next(line for line in lines if line.startswith("| simignore |"))
    assert trained.startswith("| simignore | 2 | 87.5 [") and ", +37.5 [" in trained
    assert next(line for line in lines if line.startswith("| random |")).count("not run") == 4


def test_every_regime_is_a_training_that_composes(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lit_simignore.cli import TrainKeys
    from lit_simignore.config.training import compose_training, resolve_training

    asked: list[Any] = []
    monkeypatch.setattr(script.cli, "train_main", lambda keys: asked.append(keys) or 0)
    for regime in script.REGIMES:
        assert script.train(tmp_path, regime, 1, 5, ["training.steps=3"]) == 0
    found = [resolve_training(*compose_training(TrainKeys, keys)) for keys in asked]
    assert [len(training.methods) for training in found] == [4] * 4 and all(t.config.seed == 1 for t in found)
    assert [training.config.schedule.kind.value for training in found] == ["constant"] * 3 + ["annealed"]
    assert [bool(training.pruning.parts) for training in found] == [False, True, True, True]
