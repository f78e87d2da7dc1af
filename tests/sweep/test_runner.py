"""The runner over tiny jobs that are real processes but need no model: a script in the place of the program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.sweep.ledger import FILE, Ledger, State, read_ledger
from lit_simignore.sweep.plan import Outcome
from lit_simignore.sweep.programs import environment, program_command, shares, visible_devices
from lit_simignore.sweep.runner import LOGS, Runner, Setup, job_name, last_line
from lit_simignore.types import UserError

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import os, signal, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
folder = os.path.join(given["run.dir"], given["run.name"])
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "ran"), "a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
first = len(open(os.path.join(folder, "ran")).readlines()) == 1
x = given["x"]
print("hello from", x, flush=True)
if x == "fails" or (x == "fails once" and first):
    sys.exit("what went wrong")
if x == "killed" or (x == "killed once" and first):
    os.kill(os.getpid(), signal.SIGKILL)
if x == "sleeps":
    time.sleep(60)
if x.startswith("naps"):
    parent = os.getppid()
    for _ in range(4):
        time.sleep(0.1)
        if os.getppid() != parent:
            sys.exit(143)  # as the program does, see engine/orphans.py
# A job that ended when nobody listened is run again: like the program, it then finds its result there.
with open(os.path.join(folder, "result"), "w") as file:
    file.write(x + "\\n")
"""


class Listed:
    """A plan with given values."""

    def __init__(self, *values: str) -> None:
        self.total, self._values, self.seen = len(values), values, [None] * len(values)

    def values(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        return {"x": self._values[index]}


def run(folder: Path, *values: str, workers: int = 2, retry: bool = False, devices: Any = None) -> list[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    said: list[str] = []
    setup = Setup(
        command=[sys.executable, "-S", str(script)],
        arguments=lambda values: [f"{key}={value}" for key, value in values.items()],
        devices=devices or [[]] * workers,
        retry=retry,
        say=said.append,
    )
    ledger = Ledger(folder / "s")
    ledger.begin("s", {}, len(values))
    try:
        Runner(ledger, Listed(*values), setup).run()
    finally:
        ledger.close()
    return said


def runs(folder: Path, index: int) -> list[str]:
    name = next(name for name, job in read_ledger(folder / "s").jobs.items() if job.index == index)
    return (folder / "s" / name / "ran").read_text().splitlines()


def states(folder: Path) -> list[State]:
    return [job.state for job in read_ledger(folder / "s").jobs.values()]


def test_all_jobs_run_once_and_the_same_command_again_runs_none(tmp_path: Path) -> None:
    said = run(tmp_path, "a", "$(exit 3); b", "c d")
    assert states(tmp_path) == [State.COMPLETE] * 3
    assert re.fullmatch(r"\[3/3\] complete 00\d-[0-9a-f]{6} in \d+ s", said[-1])
    log = (tmp_path / "s" / LOGS / f"{job_name(1, {'x': '$(exit 3); b'})}.log").read_text()
    assert log == "hello from $(exit 3); b\n"
    assert run(tmp_path, "a", "$(exit 3); b", "c d") == []
    assert run(tmp_path, "a", "$(exit 3); b", "c d", "e")[-1].startswith("[4/4]")
    assert [len(runs(tmp_path, index)) for index in range(4)] == [1, 1, 1, 1]


def test_a_failed_job_is_said_with_its_last_words_and_run_again_with_retry_only(tmp_path: Path) -> None:
    said = run(tmp_path, "fails once", "b")
    assert any("FAILED 000-" in line and "(code 1)" in line and "what went wrong" in line for line in said)
    assert states(tmp_path) == [State.FAILED, State.COMPLETE]
    assert run(tmp_path, "fails once", "b") == []
    run(tmp_path, "fails once", "b", retry=True)
    assert states(tmp_path) == [State.COMPLETE] * 2 and len(runs(tmp_path, 0)) == 2 and len(runs(tmp_path, 1)) == 1


def test_a_job_that_fails_again_is_not_tried_for_ever(tmp_path: Path) -> None:
    run(tmp_path, "fails")
    run(tmp_path, "fails", retry=True)
    assert len(runs(tmp_path, 0)) == 2 and states(tmp_path) == [State.FAILED]


def test_a_job_that_is_killed_goes_on_by_itself(tmp_path: Path) -> None:
    said = run(tmp_path, "killed once", "b")
    assert states(tmp_path) == [State.COMPLETE] * 2 and len(runs(tmp_path, 0)) == 2
    assert any("ended from outside 000-" in line and "(code -9): goes on" in line for line in said)


def test_a_job_that_is_killed_every_time_is_given_up_for_now(tmp_path: Path) -> None:
    said = run(tmp_path, "killed", "b")
    assert states(tmp_path) == [State.STARTED, State.COMPLETE] and len(runs(tmp_path, 0)) == 3
    assert any("given up for now" in line for line in said)


def test_every_worker_has_devices_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, *"abcdef", devices=[["4"], ["6"]])
    seen = [runs(tmp_path, index)[0] for index in range(6)]
    assert set(seen) == {"4", "6"}


def test_devices_are_shared_out_and_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-a,5,7")
    assert visible_devices() == ["3", "MIG-a", "5", "7"]
    assert shares(visible_devices(), 2, 2) == [["3", "MIG-a"], ["5", "7"]]
    assert shares([], 3, 1) == [[], [], []]
    with pytest.raises(UserError, match=r"3 workers with 2 GPU\(s\) each need 6 GPUs, here are 4; give --workers 2"):
        shares(visible_devices(), 3, 2)
    assert environment(["5"], 2)["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_devices() == []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert environment([], 3)["OMP_NUM_THREADS"] == "2"


def test_the_program_is_this_projects_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eval.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert program_command("eval.py") == [sys.executable, str(ROOT / "eval.py")]


def test_last_words_are_one_short_readable_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 9000 + b"\nlast \x1b[2J\xff words " + b"y" * 500 + b"\n\n")
    assert last_line(log).startswith("last  [2J") and len(last_line(log)) == 200 and last_line(log).isprintable()
    assert last_line(tmp_path / "none") == ""


def start_runner(folder: Path, values: Sequence[str]) -> subprocess.Popen[bytes]:
    """The runner of this file in a process of its own, which can be killed."""
    code = (
        "import sys; from pathlib import Path; from tests.sweep.test_runner import run;"
        f"run(Path({str(folder)!r}), *{list(values)!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def wait_until(happened: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def running(folder: Path) -> Mapping[str, int]:
    """Process ids of jobs that were started and have not ended."""
    text = (folder / "s" / FILE).read_text() if (folder / "s" / FILE).exists() else ""
    found = dict(re.findall(r'"started", "job": "(\S+)", "pid": (\d+)', text))
    ended = set(re.findall(r'"ended", "job": "(\S+)"', text))
    return {name: int(pid) for name, pid in found.items() if name not in ended}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_runner_ends_its_jobs(tmp_path: Path, number: signal.Signals) -> None:
    runner = start_runner(tmp_path, ["sleeps", "sleeps"])
    wait_until(lambda: len(running(tmp_path)) == 2)
    pids = list(running(tmp_path).values())
    time.sleep(0.3)
    runner.send_signal(number)
    runner.wait(30)
    if number == signal.SIGINT:
        assert all(map(gone, pids))
    else:
        # Without the command's handler SIGTERM is no exception: as after SIGKILL, the jobs notice for themselves. These
        # do not, being plain scripts; what they hold keeps the next runner out.
        with pytest.raises(UserError, match="another runner, or a job that it left behind"):
            Ledger(tmp_path / "s", patience_s=0.3)
        for pid in pids:
            os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: all(map(gone, pids)))
        Ledger(tmp_path / "s", patience_s=10).close()


def test_after_a_killed_runner_the_same_jobs_go_on_to_twelve_results(tmp_path: Path) -> None:
    values = [f"naps {index}" for index in range(12)]
    first = start_runner(tmp_path, values)
    wait_until(lambda: (tmp_path / "s" / FILE).exists() and states(tmp_path).count(State.COMPLETE) >= 3)
    first.kill()
    first.wait()
    before = [job.index for job in read_ledger(tmp_path / "s").jobs.values() if job.state is State.COMPLETE]
    assert 3 <= len(before) < 12
    run(tmp_path, *values)
    assert states(tmp_path) == [State.COMPLETE] * 12
    assert [len(runs(tmp_path, index)) for index in before] == [1] * len(before)
    results = [(path / "result").read_text() for path in sorted((tmp_path / "s").glob("0*"))]
    assert results == [f"{value}\n" for value in values]
