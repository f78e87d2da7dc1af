"""Real processes, as users start them: Lightning's own and torchrun's, killed and continued. Slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.run_toy import SIZE
from tests.engine.toys import lines, without_time

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: object, launcher: tuple[str, ...] = (), timeout: float = 300) -> int:
    """Exit status of the toy program."""
    command = [sys.executable, "-m", *launcher, "tests.engine.run_toy", str(folder), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    print(done.stdout[-3000:], done.stderr[-3000:])
    return done.returncode


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, 1) == 0
    assert lines(folder) == 2 * SIZE
    return summary(folder)


def test_a_process_killed_with_9_ends_all_and_one_process_finishes(tmp_path: Path, whole: dict[str, Any]) -> None:
    assert run(tmp_path, 2, 7, 1) != 0  # Lightning's ddp: process 1 dies
    assert 0 < lines(tmp_path) < 2 * SIZE
    assert run(tmp_path, 1) == 0
    assert without_time(summary(tmp_path)) == without_time(whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_of_two_processes_is_no_success_and_no_hang(
    tmp_path: Path, whole: dict[str, Any], rank: int
) -> None:
    assert run(tmp_path, 2, 7, rank, 15, timeout=150) != 0
    assert lines(tmp_path) < 2 * SIZE
    assert run(tmp_path, 2) == 0
    assert without_time(summary(tmp_path)) == without_time(whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_heals_itself_after_a_kill_with_one_restart(tmp_path: Path, whole: dict[str, Any], rank: int) -> None:
    # Process 0 comes last: whoever reads its address before it has written one finds that of the dead process 0.
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m")
    assert run(tmp_path, "auto", 7, rank, 9, 3, launcher=launcher) == 0
    assert without_time(summary(tmp_path)) == without_time(whole)
    assert {path.name.split("-")[1] for path in tmp_path.glob("predictions-*")} == {"0001", "0002"}


def test_torchrun_with_one_device_is_refused(tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    assert run(tmp_path, 1, launcher=launcher) != 0
    assert lines(tmp_path) == 0
