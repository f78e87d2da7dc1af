"""The trainer that settings make."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_simignore.engine.launch import build_trainer, quiet
from tests.engine.toys import settings


def test_one_process_needs_no_group(tmp_path: Path) -> None:
    trainer = build_trainer(settings(devices="1"), tmp_path, [])
    assert isinstance(trainer.strategy, SingleDeviceStrategy)
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.loggers == []


@pytest.mark.parametrize(
    "changes", [{"devices": 2}, {"devices": "2"}, {"num_nodes": 2}, {"devices": 2, "strategy": "ddp_fork"}]
)
def test_several_processes_wait_for_each_other_as_long_as_they_are_told(tmp_path: Path, changes: Any) -> None:
    trainer = build_trainer(settings(timeout_hours=7, **changes), tmp_path, [])
    assert isinstance(trainer.strategy, DDPStrategy)
    assert trainer.strategy._timeout == timedelta(hours=7)
    assert trainer.world_size == 2


def test_under_torchrun_auto_is_what_torchrun_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**started, "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    trainer = build_trainer(settings(devices="auto"), tmp_path, [])
    assert (trainer.world_size, trainer.global_rank, trainer.num_nodes) == (4, 2, 2)


def test_banners_are_off_only_inside_and_other_warnings_stay() -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = logger.level
    with quiet():
        assert not logger.isEnabledFor(logging.INFO)
        with pytest.warns(UserWarning, match="worth knowing"):
            warnings.warn("worth knowing", stacklevel=1)
    assert logger.level == before
