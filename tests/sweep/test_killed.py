"""A whole sweep of twelve real jobs with two workers in which a job is killed; one of six in which the runner is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lit_simignore.sweep.ledger import FILE, State, read_ledger
from tests.report.pages import read_page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
program: eval.py
name: killed
method: grid
parameters:
  methods: {values: ["[baseline,simignore]", "[baseline,random]", "[baseline,stride]"]}
  budget: {values: BUDGETS}
  model: {value: pico}
  benchmark.limit: {value: 4}
  efficiency.samples: {value: 0}
  report.samples: {value: 0}
command: ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
"""
PATIENCE_S = 3000.0


@contextmanager
def started(folder: Path, budgets: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """A runner of three jobs per budget. It does not outlive a test that fails, and ends its jobs itself."""
    (folder / "sweep.yaml").write_text(SWEEP.replace("BUDGETS", str(budgets)))
    command = [sys.executable, "-m", "lit_simignore.sweep", "sweep.yaml", "--workers", "2", "--dir", "runs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "out").open("ab") as out:
        runner = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield runner
    finally:
        runner.terminate()
        runner.wait()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def complete(folder: Path) -> set[str]:
    jobs = read_ledger(folder / "runs" / "killed").jobs
    return {name for name, job in jobs.items() if job.state is State.COMPLETE}


def starts(folder: Path) -> list[tuple[str, int]]:
    text = (folder / "runs" / "killed" / FILE).read_text()
    return [(name, int(pid)) for name, pid in re.findall(r'"started", "job": "(\S+)", "pid": (\d+)', text)]


def at_work(folder: Path) -> bool:
    """Whether some jobs are complete and the last one that was started has its model and begins to compute."""
    done = complete(folder) if (folder / "runs" / "killed" / FILE).exists() else set()
    return len(done) >= 3 and (folder / "runs" / "killed" / starts(folder)[-1][0] / "config.yaml").exists()


def check_results(folder: Path, jobs: int) -> None:
    sweep = folder / "runs" / "killed"
    assert len(complete(folder)) == jobs
    accuracies = set()
    for name in complete(folder):
        summary = json.loads((sweep / name / "summary.json").read_text())
        assert summary["run"]["complete"] and [row["n"] for row in summary["methods"]] == [4, 4]
        accuracies.add(summary["methods"][0]["accuracy"])
    assert len(accuracies) == 1
    page = read_page(sweep / "sweep.html")
    assert f"{jobs} of {jobs} jobs complete" in page.text and page.classes["line"] == jobs
    plain = json.loads((sweep / "sweep.json").read_text())
    assert len({(row["method"], *row["jobs"]) for row in plain["rows"]}) == jobs + 1


def test_a_killed_job_is_continued_and_all_twelve_have_results(tmp_path: Path) -> None:
    with started(tmp_path, [72, 54, 36, 18]) as runner:
        wait_until(lambda: at_work(tmp_path))
        # The next one to start: it is busy with imports for seconds, so it can't be over before it is killed.
        before = len(starts(tmp_path))
        wait_until(lambda: len(starts(tmp_path)) > before)
        name, pid = starts(tmp_path)[before]
        os.kill(pid, signal.SIGKILL)
        assert runner.wait(PATIENCE_S) == 0, (tmp_path / "out").read_text()
    check_results(tmp_path, 12)
    assert len(starts(tmp_path)) == 13
    assert [each for each, _ in starts(tmp_path)].count(name) == 2


def test_a_killed_runner_is_continued_by_the_same_command(tmp_path: Path) -> None:
    with started(tmp_path, [72, 36]) as first:
        wait_until(lambda: at_work(tmp_path))
        first.kill()
        first.wait()
    before = complete(tmp_path)
    with started(tmp_path, [72, 36]) as second:
        assert second.wait(PATIENCE_S) == 0, (tmp_path / "out").read_text()
    check_results(tmp_path, 6)
    names = [name for name, _ in starts(tmp_path)]
    assert 3 <= len(before) < 6 and all(names.count(name) == 1 for name in before)
    assert 7 <= len(names) <= 8
