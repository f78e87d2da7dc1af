"""A process that was started for a run ends when the one that started it does.

After a ``kill -9`` of the first process (or of torchrun's agent) nobody tells the others: they would go on computing,
hold their devices, and wait for a dead process at the end, while the same command is already running again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PARENT = "LIT_SIMIGNORE_PARENT"
_EVERY_S = 0.5
_GRACE_S = 5.0
_watched: set[int] = set()
"""Processes in which the watch is on; a forked process inherits the set, but not the watch."""


@contextmanager
def announced_as_parent(starts_others: bool) -> Iterator[None]:
    """Within the block, processes that this one starts for the run know whom they belong to."""
    if not starts_others:
        yield
        return
    os.environ[_PARENT] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(_PARENT, None)


def end_with_parent() -> None:
    """Watch the parent from a thread, where there is one to watch; may be called again, and should be called early.

    A process that was started by hand, or by SLURM, has no such parent: its shell may go home.
    """
    parent = _parent()
    if parent is None or os.getpid() in _watched or os.name != "posix":
        return
    _watched.add(os.getpid())
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="end-with-parent").start()


def _parent() -> int | None:
    announced = os.environ.get(_PARENT, "")
    if announced.isdecimal() and int(announced) != os.getpid():
        return int(announced)
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    # Within a collective the main thread hears no signal. What was recorded is on disk.
    os._exit(128 + signal.SIGTERM)
