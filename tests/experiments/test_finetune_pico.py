"""The experiment's table from made-up records: means over seeds, paired differences, and what was not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lit_simignore.metrics.statistics import cluster_interval


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("finetune-pico/run")


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
    text = script.table(tmp_path, [0, 1, 2])
    assert "\n| no training | 1 | 50.0 [" in text
    assert "\n| simignore | 2 | 87.5 [" in text and "] (75.0-100.0) |" in text
    assert "\n| simignore - no training | 2 | +37.5 [" in text
    random = [line for line in text.splitlines() if line.startswith(("| random |", "| simignore - random |"))]
    assert [line.count("not run") for line in random] == [4, 4]


def test_intervals_of_one_seed_are_those_of_the_cluster_bootstrap_and_seeds_widen_them(script: Any) -> None:
    rng = np.random.default_rng(3)
    groups = [f"g{i // 3}" for i in range(300)]
    one = rng.integers(0, 2, (1, 300)).astype(float)
    mean, low, high = script.crossed_bootstrap(one, groups)
    expected = cluster_interval(list(one[0]), groups)
    assert mean == pytest.approx(expected.value)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.005)
    same = script.crossed_bootstrap(np.repeat(one, 3, axis=0), groups)
    assert same == pytest.approx((mean, low, high), abs=0.005)
    apart = np.stack([one[0] * 0, one[0], np.ones(300)])
    wide = script.crossed_bootstrap(apart, groups)
    assert wide[1] < low - 0.2 and wide[2] > high + 0.2


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
