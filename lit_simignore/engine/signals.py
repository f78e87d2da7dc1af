"""Stopping on request: SIGTERM ends the process at once, with an exit status that says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import lightning as L

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, as shells count it: 143."""


class ExitOnSigterm(L.Callback):
    """Replaces Lightning's handler while testing.

    Lightning's own ends a terminated test with status 0, as if it were complete, and broadcasts to the other
    processes from within the handler, which blocks when only one of them got the signal.
    """

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signal over; Lightning gives it back to the previous handler when the test is over."""
        if _can_handle():
            signal.signal(signal.SIGTERM, _exit)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises ``SystemExit(143)``, outside of it what it did before."""
    if not _can_handle():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _can_handle() -> bool:
    return threading.current_thread() is threading.main_thread()


def _exit(number: int, frame: Any) -> NoReturn:
    raise SystemExit(TERMINATED)
