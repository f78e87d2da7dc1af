"""The simulation of large runs against closed forms, and the job script against a SLURM of stubs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "launching"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("launching/simulate")


def hours(outcomes: list[Any]) -> float:
    return float(np.mean([outcome.wall_h for outcome in outcomes]))


@pytest.mark.parametrize(("ranks", "unit"), [(1, 0), (7, 0), (8, 0), (7, 1), (8, 5), (300, 0), (300, 1)])
def test_equal_batches_without_failures_take_what_division_says(script: Any, ranks: int, unit: int) -> None:
    cluster = script.Cluster(ranks=ranks, startup_s=10.0, take_s=0.5)
    found = script.simulate(np.full(120, 2.0), cluster, unit, np.random.default_rng(0))
    units = -(-120 // unit) if unit else 0
    rounds = -(-units // ranks) if unit else 0
    wall = 10 + (rounds * (0.5 + 2.0 * unit) if unit else 2.0 * -(-120 // ranks))
    assert found.wall_h * 3600 == pytest.approx(wall) and found.attempts == 1
    assert found.wasted_gpu_h * 3600 == pytest.approx(ranks * wall - 240)


def test_the_slowest_of_exponential_ranks_takes_a_harmonic_number(script: Any) -> None:
    ranks, cluster = 16, script.Cluster(ranks=16, startup_s=0.0)
    draw = np.random.default_rng(1)
    found = [script.simulate(draw.exponential(1.0, ranks), cluster, 0, draw) for _ in range(4000)]
    assert 3600 * hours(found) == pytest.approx(sum(1 / n for n in range(1, ranks + 1)), rel=0.02)


def test_failures_cost_what_restarting_until_success_costs(script: Any) -> None:
    """One batch of length s that a failure throws away: E = (1/rate + requeue) (exp(rate s) - 1)."""
    cluster = script.Cluster(ranks=1, startup_s=0.0, requeue_s=50.0, node_mtbf_h=200 / 3600)
    draw = np.random.default_rng(2)
    found = [script.simulate(np.array([150.0]), cluster, 0, draw) for _ in range(20_000)]
    assert 3600 * hours(found) == pytest.approx((200 + 50) * np.expm1(150 / 200), rel=0.02)
    assert np.mean([outcome.attempts for outcome in found]) == pytest.approx(np.exp(150 / 200), rel=0.02)


def test_what_is_finished_is_not_computed_again(script: Any) -> None:
    cluster = script.Cluster(ranks=4, startup_s=5.0, requeue_s=20.0, node_mtbf_h=0.1)
    for unit in (0, 1, 8):
        found = script.simulate(np.full(400, 3.0), cluster, unit, np.random.default_rng(3))
        # At most one batch per rank is lost with every attempt.
        assert found.attempts > 1
        assert found.wall_h * 3600 < 300 + 3 + found.attempts * (5 + 20 + 3 * 2 + 8 * 3)
        assert found.wasted_gpu_h * 3600 == pytest.approx(4 * (found.wall_h * 3600 - (found.attempts - 1) * 20) - 1200)


def test_one_slow_rank_holds_static_shards_up_and_units_hardly(script: Any) -> None:
    cluster = script.Cluster(ranks=10, startup_s=0.0, take_s=0.0, slow_share=0.1, slowdown=2.0)
    static, units = (script.simulate(np.ones(1000), cluster, unit, np.random.default_rng(4)) for unit in (0, 1))
    assert static.wall_h * 3600 == pytest.approx(200)
    assert 1000 / 9.5 <= units.wall_h * 3600 <= 1000 / 9.5 + 2


def test_units_share_their_failures_and_nothing_else_does(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one draw for every size of cluster a table can show no failure at all, whatever was assumed."""
    seen: dict[int, list[float]] = {}

    def watched(batches: Any, cluster: Any, unit: int, draw: np.random.Generator) -> Any:
        seen.setdefault(unit, []).append(draw.random())
        return script.Outcome(1.0, 0.0, 1)

    monkeypatch.setattr(script, "simulate", watched)
    script.table([1.0], 10, 1.0, 3, 0)
    assert set(seen) == set(script.UNITS)
    draws = seen[script.STATIC]
    assert all(others == draws for others in seen.values())
    assert len(set(draws)) == len(draws) == len(script.scenes()) * len(script.RANKS) * 3


def test_the_figure_and_the_table_are_written_and_show_every_scene(script: Any, tmp_path: Path, capsys: Any) -> None:
    script.main(["--batches", "600", "--repeats", "1", "--write", str(tmp_path)])
    page = (tmp_path / "simulate.md").read_text(encoding="utf-8")
    assert page.strip() == capsys.readouterr().out.strip()
    drawn = ElementTree.parse(tmp_path / "simulate.svg").getroot()
    lines = [node for node in drawn.iter() if node.tag.endswith("polyline")]
    assert len(lines) == len(script.scenes()) * len(script.UNITS)
    assert all(scene.title in page for scene in script.scenes())


def test_latencies_are_read_from_a_run(script: Any, tmp_path: Path) -> None:
    rows = [
        {"method": "baseline", "latency_ms": 10.0, "batch_size": 2, "error": None},
        {"method": "baseline", "latency_ms": 10.0, "batch_size": 2, "error": None},
        {"method": "baseline", "latency_ms": 7.0, "batch_size": 1, "error": None},
        {"method": "baseline", "latency_ms": None, "batch_size": 0, "error": "broken"},
    ]
    (tmp_path / "predictions-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script.main(["--sample", str(tmp_path), "--latencies", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["batch_ms"] == [20.0, 7.0]


# ---------------------------------------------------------------- the job script


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """A machine with stubs of ``srun`` and ``scontrol`` on its path."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "scontrol").write_text(
        '#!/bin/bash\necho "scontrol $*" >> "$CALLS"\n[ "$1" = show ] && echo localhost\nexit 0\n'
    )
    # As the real one: it runs the command and hands signals on.
    (bin_dir / "srun").write_text(
        '#!/bin/bash\necho "srun $*" >> "$CALLS"\n'
        'while [ "${1#-}" != "$1" ]; do shift; done\n"$@" &\nchild=$!\n'
        "trap 'kill -TERM $child' TERM\nwait $child; code=$?\n"
        "while kill -0 $child 2>/dev/null; do wait $child; code=$?; done\nexit $code\n"
    )
    for name in ("scontrol", "srun"):
        (bin_dir / name).chmod(0o755)
    return {
        **os.environ, "PATH": f"{bin_dir}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node-7", "SLURM_NNODES": "1",
        "SLURM_RESTART_COUNT": "0", "GPUS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        "SLURM_SUBMIT_DIR": str(ROOT),
    }  # fmt: skip


def test_the_job_script_is_bash_and_asks_for_its_signal_in_time() -> None:
    file = FOLDER / "eval.sbatch"
    assert subprocess.run(["bash", "-n", str(file)]).returncode == 0
    text = file.read_text()
    options = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "--signal=B:USR1@120" in options and "--requeue" in options and "--open-mode=append" in options
    assert os.stat(file).st_mode & stat.S_IXUSR


def test_without_a_signal_the_exit_status_is_that_of_the_evaluation(slurm: dict[str, str], tmp_path: Path) -> None:
    for code in (0, 3):
        # In place of python: torchrun's arguments go nowhere.
        (tmp_path / "bin" / "python").write_text(f"#!/bin/bash\nexit {code}\n")
        (tmp_path / "bin" / "python").chmod(0o755)
        done = subprocess.run(["bash", str(FOLDER / "eval.sbatch"), "model=pico"], env=slurm, timeout=60)
        assert done.returncode == code
    calls = Path(slurm["CALLS"]).read_text()
    assert "requeue" not in calls
    assert "--nproc-per-node=1" in calls and "eval.py trainer.devices=auto model=pico" in calls


@pytest.mark.slow
def test_a_job_whose_time_is_up_requeues_and_the_next_one_finishes(slurm: dict[str, str], tmp_path: Path) -> None:
    wish = [
        f"run.dir={tmp_path}", "run.name=job", "methods=[baseline]", "benchmark.limit=160", "efficiency.samples=0",
        "report.samples=0", "trainer.accelerator=cpu", "trainer.progress=false", "trainer.batch_size=2",
    ]  # fmt: skip
    command = ["bash", str(FOLDER / "eval.sbatch"), *wish]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command, env=slurm, stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while written(tmp_path / "job") < 4 and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)  # what SLURM sends to the batch shell alone
        assert job.wait(300) == 0, (tmp_path / "log").read_text()[-2000:]
        calls = Path(slurm["CALLS"]).read_text()
        assert calls.count("scontrol requeue 42") == 1
        assert 0 < written(tmp_path / "job") < 160
        again = subprocess.run(command, env={**slurm, "SLURM_RESTART_COUNT": "1"}, stdout=log, stderr=log, timeout=500)
    assert again.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    assert Path(slurm["CALLS"]).read_text().count("requeue") == 1
    summary = json.loads((tmp_path / "job" / "summary.json").read_text())
    assert summary["run"]["complete"] and summary["methods"][0]["n"] == 160
    assert written(tmp_path / "job") == 160, "what was answered is not answered again"


def written(run_dir: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in run_dir.glob("predictions-*.jsonl"))
