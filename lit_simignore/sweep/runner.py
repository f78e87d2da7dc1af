"""Runs the jobs of a sweep, several at a time, each in a process and a folder of its own, until all have ended.

Nothing of a job happens in this process, and all that it must remember is in the ledger: whatever is killed, the same
command goes on with what is not complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lit_simignore.engine.orphans import announced_as_parent
from lit_simignore.sweep.ledger import Job, Ledger, State, ended_by_signal
from lit_simignore.sweep.plan import Outcome, Plan
from lit_simignore.sweep.programs import environment

LOGS = "logs"
_EVERY_S = 0.1
_GRACE_S = 10.0
_MOST_ATTEMPTS = 3
"""How often one runner starts a job that signals keep ending, such as one that does not fit into memory."""

_TAIL_BYTES, _TAIL_LETTERS = 4000, 200


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How jobs are run.

    Args:
        command: the program.
        arguments: values of a job to its arguments; those about its run folder are added.
        devices: of each worker.
        retry: run failed jobs again.
        metric: a job's folder to what a search goes by; ``None`` where it does not.
        say: takes one line for the user.
        drawn: called after jobs have ended, to show where the sweep stands.
    """

    command: Sequence[str]
    arguments: Callable[[Mapping[str, Any]], Sequence[str]]
    devices: Sequence[Sequence[str]]
    retry: bool = False
    metric: Callable[[Path], float | None] | None = None
    say: Callable[[str], None] = print
    drawn: Callable[[], object] = lambda: None


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float


class Runner:
    """One runner over one ledger, which it does not close."""

    def __init__(self, ledger: Ledger, plan: Plan, setup: Setup) -> None:
        self.ledger, self.plan, self.setup = ledger, plan, setup
        self._running: dict[int, _Running] = {}
        self._begun: dict[str, int] = {}
        self._given_up: set[str] = set()

    def run(self) -> None:
        """Run whatever is not complete. An exception, Ctrl-C among them, ends all jobs; the ledger keeps them."""
        with announced_as_parent(True):
            try:
                while self._fill() or self._running:
                    self._collect()
            finally:
                self._stop()

    def _fill(self) -> bool:
        """Give every idle worker a job; says whether there was any to give."""
        given = False
        for worker in range(len(self.setup.devices)):
            if worker not in self._running and (job := self._next()) is not None:
                self._running[worker] = self._start(job, worker)
                given = True
        return given

    def _next(self) -> Job | None:
        jobs = self.ledger.history.jobs
        busy = {running.job.name for running in self._running.values()}
        for job in sorted(jobs.values(), key=lambda job: job.index):
            if job.index < self.plan.total and job.name not in busy and self._due(job):
                return job
        if len(jobs) >= self.plan.total:
            return None
        values = self.plan.values(len(jobs), [self._outcome(job) for job in jobs.values()])
        return self.ledger.plan(len(jobs), job_name(len(jobs), values), values)

    def _due(self, job: Job) -> bool:
        if job.name in self._given_up or job.state is State.COMPLETE:
            return False
        return job.state is not State.FAILED or (self.setup.retry and job.name not in self._begun)

    def _outcome(self, job: Job) -> Outcome:
        done = job.state is State.COMPLETE and self.setup.metric is not None
        return job.values, self.setup.metric(self.ledger.folder / job.name) if done and self.setup.metric else None

    def _start(self, job: Job, worker: int) -> _Running:
        folder, devices = self.ledger.folder, self.setup.devices[worker]
        (folder / LOGS).mkdir(exist_ok=True)
        log = (folder / LOGS / f"{job.name}.log").open("ab")
        place = [f"run.dir={folder}", f"run.name={job.name}"]
        argv = [*self.setup.command, *self.setup.arguments(job.values), *place]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(devices, len(self.setup.devices)),
            # A group of its own: Ctrl-C comes to the runner alone, which ends a job with all its processes.
            start_new_session=True,
            # While one of a killed runner's jobs lives, no other runner begins.
            pass_fds=[self.ledger.lock],
        )
        self.ledger.start(job, process.pid)
        self._begun[job.name] = self._begun.get(job.name, 0) + 1
        gpu = f", GPU {','.join(devices)}" if devices else ""
        again = f", attempt {job.attempts}" if job.attempts > 1 else ""
        self._say(f"started {job.name} (worker {worker}{gpu}{again}): {described(job.values)}")
        return _Running(job, process, log, time.monotonic())

    def _collect(self) -> None:
        ended = [worker for worker, running in self._running.items() if _has_ended(running.process)]
        for worker in ended:
            self._end(self._running.pop(worker))
        if ended:
            self.setup.drawn()
        else:
            time.sleep(_EVERY_S)

    def _end(self, running: _Running) -> None:
        job, seconds = running.job, time.monotonic() - running.began
        code = _reaped(running.process)
        running.log.close()
        self.ledger.end(job, code, seconds)
        if job.state is State.COMPLETE:
            self._say(f"complete {job.name} in {seconds:.0f} s")
            return
        log = self.ledger.folder / LOGS / f"{job.name}.log"
        if ended_by_signal(code):
            more = self._begun[job.name] < _MOST_ATTEMPTS
            self._given_up |= set() if more else {job.name}
            what = "goes on" if more else f"given up for now (log: {log})"
            self._say(f"ended from outside {job.name} (code {code}): {what}")
        else:
            self._say(f"FAILED {job.name} (code {code}) after {seconds:.0f} s: {last_line(log)} (log: {log})")

    def _say(self, line: str) -> None:
        done = sum(job.state is State.COMPLETE for job in self.ledger.history.jobs.values())
        self.setup.say(f"[{done}/{self.plan.total}] {line}")

    def _stop(self) -> None:
        """End what still runs: first asking, then not."""
        for running in self._running.values():
            _signal_group(running.process.pid, signal.SIGTERM)
        end = time.monotonic() + _GRACE_S
        for running in self._running.values():
            while not _has_ended(running.process) and time.monotonic() < end:
                time.sleep(_EVERY_S)
            _reaped(running.process)
            running.log.close()


def job_name(index: int, values: Mapping[str, Any]) -> str:
    """Number and a word that changes with the values: ``003-1a2b3c``."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
    return f"{index:03d}-{digest[:6]}"


def described(values: Mapping[str, Any]) -> str:
    """Values as they stand on the command line."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def last_line(log: Path) -> str:
    """The last line that a job wrote, as far as it is readable."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_TAIL_LETTERS]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the job's first process has ended. It is left as it is: its number is not given to another one yet."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reaped(process: subprocess.Popen[bytes]) -> int:
    """End whatever a job has left, and give its exit code."""
    _signal_group(process.pid, signal.SIGKILL)
    return process.wait()


def _signal_group(leader: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all of it has ended
        os.killpg(leader, number)
