"""What a sweep's jobs are and how each ended: one append-only file in the sweep's folder, durable line by line.

A runner that was killed leaves at most one unfinished line, which the next one cuts off. A lock that the processes of
the jobs hold as well keeps a second runner out, also while a killed runner's jobs are still ending.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from lit_simignore.engine.atomic import cannot_write, sync_folder
from lit_simignore.types import UserError

FILE, LOCK = "jobs.jsonl", "lock"
_EVERY_S = 0.2


class State(str, Enum):
    """What is known about a job. Value: the words for a person."""

    WAITING = "not run yet"
    STARTED = "not finished"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass
class Job:
    """One job.

    Args:
        index: from 0.
        name: of its run folder.
        values: by parameter.
        attempts: how often it was started.
        code: exit code of the last attempt; ``None`` where none has ended, negative for a signal.
        seconds: that the last attempt took.
    """

    index: int
    name: str
    values: dict[str, Any]
    attempts: int = 0
    code: int | None = None
    seconds: float | None = None

    @property
    def state(self) -> State:
        """What is known about it. A job that a signal ended is one that goes on, not one that failed."""
        if not self.attempts:
            return State.WAITING
        if self.code is None or ended_by_signal(self.code):
            return State.STARTED
        return State.FAILED if self.code else State.COMPLETE


@dataclass
class History:
    """What the file says.

    Args:
        identity: what the sweep is; empty before it has begun.
        jobs: by name, in the order of their numbers.
        total: how many jobs there are to be, as the last runner knew.
        name: of the sweep.
    """

    identity: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    total: int = 0
    name: str = ""


def ended_by_signal(code: int) -> bool:
    """Whether a process was ended from outside: by a signal, or by its own answer to one."""
    return code < 0 or code in (130, 137, 143)


def read_ledger(folder: Path) -> History:
    """The history of the sweep in ``folder``; empty where none has begun.

    Raises:
        UserError: a line other than the last cannot be read.
    """
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return History()
    found = History()
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            _take(found, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{folder / FILE}, line {number}: expected an entry of a sweep ({type(error).__name__}); "
                "remove the line or the folder"
            ) from error
    return found


def _take(found: History, entry: dict[str, Any]) -> None:
    kind = entry["event"]
    if kind == "sweep":
        found.identity, found.name, found.total = dict(entry["identity"]), str(entry["name"]), int(entry["total"])
    elif kind == "planned":
        name = str(entry["job"])
        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError(name)  # a job is a folder in the sweep's
        found.jobs[name] = Job(int(entry["index"]), name, dict(entry["values"]))
    elif kind == "started":
        job = found.jobs[entry["job"]]
        job.attempts, job.code = job.attempts + 1, None
    elif kind == "ended":
        job = found.jobs[entry["job"]]
        job.code, job.seconds = int(entry["code"]), float(entry["seconds"])


class Ledger:
    """The file, open for one runner.

    Args:
        folder: of the sweep; made if need be.
        patience_s: how long to wait for the processes of an earlier runner to end.

    Raises:
        UserError: another runner works on this sweep, or the file cannot be read.
    """

    def __init__(self, folder: Path, patience_s: float = 20.0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._wait_for_lock(patience_s)
            self.history = read_ledger(folder)
            self._file = (folder / FILE).open("ab", buffering=0)
            self._cut_unfinished_line()
        except BaseException:
            os.close(self.lock)
            raise
        sync_folder(folder)

    def _wait_for_lock(self, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= end:
                raise UserError(
                    f"another runner, or a job that it left behind, works on {self.folder}; wait for it or end it"
                )
            time.sleep(_EVERY_S)

    def _cut_unfinished_line(self) -> None:
        content = (self.folder / FILE).read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)

    def begin(self, name: str, identity: Mapping[str, Any], total: int) -> None:
        """Say what the sweep is.

        Raises:
            UserError: the folder holds another sweep.
        """
        identity = json.loads(json.dumps(identity))
        if self.history.identity and self.history.identity != identity:
            keys = sorted(key for key in identity if self.history.identity.get(key) != identity[key])
            raise UserError(
                f"{self.folder} holds a sweep with another {', '.join(keys) or 'definition'}; give this one another "
                "name (--name) or remove the folder"
            )
        if not self.history.identity or (self.history.total, self.history.name) != (total, name):
            self._append({"event": "sweep", "name": name, "identity": identity, "total": total})

    def plan(self, index: int, name: str, values: Mapping[str, Any]) -> Job:
        """Add a job."""
        self._append({"event": "planned", "job": name, "index": index, "values": values})
        return self.history.jobs[name]

    def start(self, job: Job, pid: int) -> None:
        """A job has been started."""
        self._append({"event": "started", "job": job.name, "pid": pid, "time": _now()})

    def end(self, job: Job, code: int, seconds: float) -> None:
        """A job has ended."""
        self._append({"event": "ended", "job": job.name, "code": code, "seconds": round(seconds, 3), "time": _now()})

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, allow_nan=False)
        try:
            self._file.write(f"{line}\n".encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.folder / FILE, error) from error
        _take(self.history, json.loads(line))

    def close(self) -> None:
        """Let the next runner in, once this one's jobs have ended."""
        self._file.close()
        os.close(self.lock)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
