"""Processes that meet over a board on which dead ones have left their notes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from lit_simignore.engine.rendezvous import ask, give_out, meet_anew
from lit_simignore.types import UserError

SOON = timedelta(seconds=20)


def attempt(board: dist.Store, value: str, world_size: int = 3, head_start_s: float = 0.0) -> dict[int, str]:
    """What each process is told when process 0, who starts last, gives out ``value``."""
    told: dict[int, str] = {}

    def other(rank: int) -> Callable[[], None]:
        return lambda: told.update({rank: ask(board, rank, SOON)})

    threads = [threading.Thread(target=other(rank)) for rank in range(1, world_size)]
    for thread in threads:
        thread.start()
    time.sleep(head_start_s)
    give_out(board, value, world_size, SOON)
    for thread in threads:
        thread.join()
    return told


def test_a_restarted_process_never_hears_what_a_dead_one_gave_out() -> None:
    board = dist.HashStore()
    for value in ("1111", "2222", "3333"):
        assert attempt(board, value, head_start_s=0.2) == {1: value, 2: value}


def test_a_process_that_died_while_asking_is_answered_in_vain_and_its_successor_is_waited_for() -> None:
    board = dist.HashStore()
    board.set("question/1", "of a dead process")
    given = threading.Thread(target=give_out, args=(board, "4444", 2, SOON))
    given.start()
    board.wait(["answer/of a dead process"], SOON)
    assert given.is_alive()
    assert ask(board, 1, SOON) == "4444"
    given.join()


def test_waiting_ends_and_says_for_whom() -> None:
    board, short = dist.HashStore(), timedelta(seconds=0.1)
    with pytest.raises(UserError, match="for process 0 to start"):
        ask(board, 1, short)
    with pytest.raises(UserError, match="for process 1 to start.*trainer.timeout_hours"):
        give_out(board, "5555", 3, short)


def test_the_address_of_the_group_is_a_new_one_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    agent: Any = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agent.port), "RANK": "0", "WORLD_SIZE": "2"}
    for name, value in {**there, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []
    board = dist.PrefixStore("lit_simignore", dist.TCPStore("127.0.0.1", agent.port, is_master=False))
    other = threading.Thread(target=lambda: told.append(ask(board, 1, SOON)))
    other.start()
    meet_anew(SOON)
    other.join()
    assert told == [os.environ["MASTER_PORT"]]
    assert told != [str(agent.port)]
    client = dist.TCPStore("127.0.0.1", int(told[0]), is_master=False, timeout=SOON)
    # What torch does in process 0 when it makes the group; it must share the server, for the port is taken.
    server = dist.TCPStore("127.0.0.1", int(told[0]), is_master=True, multi_tenant=True, wait_for_workers=False)
    client.set("key", "value")
    assert server.get("key") == b"value"
    meet_anew(SOON)  # a second call finds nothing to do
    assert os.environ["MASTER_PORT"] == told[0]


def test_without_torchrun_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    meet_anew(SOON)
    assert os.environ["MASTER_PORT"] == "1"
