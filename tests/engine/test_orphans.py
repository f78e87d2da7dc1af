"""Real processes whose parent is killed."""

from __future__ import annotations

import os
import select
import signal
import time
import warnings
from typing import NoReturn

import pytest

from lit_simignore.engine import orphans
from lit_simignore.engine.orphans import announced_as_parent, end_with_parent


def live(deaf: bool) -> NoReturn:
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    time.sleep(60)
    os._exit(0)


def be_killed(deaf: bool, announced: bool) -> NoReturn:
    with announced_as_parent(announced):
        if os.fork() == 0:
            live(deaf)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


def seconds_left_behind(deaf: bool = False, announced: bool = True) -> float | None:
    """How long a process outlives its parent, which is killed; ``None`` if it still does after 3 seconds."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking while threads exist
        parent = os.fork()
    if parent == 0:
        os.setsid()
        be_killed(deaf, announced)
    os.close(writing)
    os.waitpid(parent, 0)
    began = time.monotonic()
    ended = bool(select.select([reading], [], [], 3)[0])  # the last holder of the pipe is gone
    os.close(reading)
    if not ended:
        os.killpg(parent, signal.SIGKILL)
    return time.monotonic() - began if ended else None


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(orphans, "_EVERY_S", 0.05)
    monkeypatch.setattr(orphans, "_GRACE_S", 0.1)


@pytest.mark.parametrize("deaf", [False, True], ids=["listening", "within a collective"])
def test_a_process_ends_with_the_one_that_started_it(deaf: bool) -> None:
    assert seconds_left_behind(deaf) is not None


def test_under_torchrun_the_agent_is_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert seconds_left_behind(announced=False) is not None


def test_a_process_started_by_hand_outlives_its_shell() -> None:
    assert seconds_left_behind(announced=False) is None


def test_the_parent_itself_and_its_later_children_are_left_alone() -> None:
    with announced_as_parent(True):
        assert orphans._parent() is None
    assert "LIT_SIMIGNORE_PARENT" not in os.environ
