"""What is remembered of a sweep survives torn lines, and two runners do not share one."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from lit_simignore.sweep.ledger import FILE, Ledger, State, read_ledger
from lit_simignore.types import UserError


def begun(folder: Path, jobs: int = 3) -> None:
    ledger = Ledger(folder)
    ledger.begin("s", {"seed": 0}, jobs)
    for index in range(jobs):
        ledger.plan(index, f"{index:03d}", {"x": index})
    ledger.close()


def test_states_follow_from_what_happened(tmp_path: Path) -> None:
    begun(tmp_path, 5)
    ledger = Ledger(tmp_path)
    jobs = list(ledger.history.jobs.values())
    for job, code in zip(jobs, (0, 1, -9, 143), strict=False):
        ledger.start(job, 1)
        ledger.end(job, code, 1.5)
    ledger.close()
    found = read_ledger(tmp_path)
    states = [State.COMPLETE, State.FAILED, State.STARTED, State.STARTED, State.WAITING]
    assert [job.state for job in found.jobs.values()] == states
    assert (found.total, found.name, found.jobs["001"].seconds) == (5, "s", 1.5)


def test_a_job_that_runs_again_is_not_complete_any_more(tmp_path: Path) -> None:
    begun(tmp_path, 1)
    ledger = Ledger(tmp_path)
    job = ledger.history.jobs["000"]
    ledger.start(job, 1)
    ledger.end(job, 1, 0)
    ledger.start(job, 2)
    ledger.close()
    again = read_ledger(tmp_path).jobs["000"]
    assert (again.state, again.attempts) == (State.STARTED, 2)


def test_a_torn_last_line_is_forgotten_and_cut_off(tmp_path: Path) -> None:
    begun(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for cut in range(len(whole) - 12, len(whole)):
        (tmp_path / FILE).write_bytes(whole[:cut])
        assert list(read_ledger(tmp_path).jobs) == ["000", "001"]
    ledger = Ledger(tmp_path)
    ledger.plan(2, "002", {"x": 2})
    ledger.close()
    assert (tmp_path / FILE).read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"event": "ended", "job": "nobody", "code": 0, "seconds": 1}', '{"event": "planned"}']
    + [json.dumps({"event": "planned", "job": name, "index": 0, "values": {}}) for name in ("../x", "/etc", ".", "")],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    begun(tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"jobs\.jsonl, line 5: expected an entry of a sweep"):
        read_ledger(tmp_path)


def test_another_sweep_in_the_same_folder_is_refused_and_more_jobs_are_not(tmp_path: Path) -> None:
    begun(tmp_path)
    ledger = Ledger(tmp_path)
    with pytest.raises(UserError, match="holds a sweep with another seed; give this one another name"):
        ledger.begin("s", {"seed": 1}, 3)
    ledger.begin("s", {"seed": 0}, 7)
    ledger.close()
    assert read_ledger(tmp_path).total == 7


def _try_to_open(folder: Path) -> None:
    try:
        Ledger(folder, patience_s=0.3)
    except UserError as error:
        raise SystemExit(3 if "another runner" in str(error) else 4) from error


def test_a_second_runner_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    spawn = multiprocessing.get_context("fork")
    codes = []
    for _ in range(2):
        process = spawn.Process(target=_try_to_open, args=(tmp_path,))
        process.start()
        process.join(20)
        codes.append(process.exitcode)
        if len(codes) == 1:
            first.close()
    assert codes == [3, 0]
