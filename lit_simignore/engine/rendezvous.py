"""Where the processes that torchrun started meet: at an address that no earlier attempt has used.

torchrun's agent keeps one store over all restarts, and torch puts the addresses of a process group (gloo's ports,
NCCL's id) into it under keys that are the same in every attempt. After a restart a process that is faster than process
0 therefore reads the address of a dead one, dials it until the time-out, and the restart is wasted; under load this
happens in every attempt. ``TORCHELASTIC_RESTART_COUNT`` cannot tell attempts apart, for the agents of several machines
count differently. Here process 0 opens a store of its own and gives its address only to those who ask after it began.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from lit_simignore.types import UserError

_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
_PAUSE_S = 0.05
_AGENT_IS_THERE = timedelta(minutes=2)
"""How long to look for the agent, which was there before this process: if it is not, it is dead."""

_opened: list[dist.TCPStore] = []
"""Process 0's store, held until the process group, which is made later, shares its server."""


def meet_anew(timeout: timedelta) -> None:
    """Let the process group that is made next use a new store; does nothing where torchrun's agent offers none.

    Must be called by all processes. Sets ``MASTER_ADDR`` and ``MASTER_PORT``, which every strategy reads.

    Args:
        timeout: how long to wait for the other processes.

    Raises:
        UserError: some did not come.
    """
    if os.environ.get(_AGENT_STORE) != str(True) or dist.is_initialized():
        return
    host, rank, world_size = os.environ["MASTER_ADDR"], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agent = dist.TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False, timeout=min(timeout, _AGENT_IS_THERE))
    board = dist.PrefixStore("lit_simignore", agent)
    if rank == 0:
        # Port 0 is one that is free, and it is taken from now on: nobody else can get it before the group is made.
        own = dist.TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False, multi_tenant=True)
        _opened.append(own)
        port = own.port
        give_out(board, str(port), world_size, timeout)
    else:
        port = int(ask(board, rank, timeout))
    os.environ |= {"MASTER_PORT": str(port), _AGENT_STORE: str(False)}


def give_out(board: dist.Store, value: str, world_size: int, timeout: timedelta) -> None:
    """Answer every process that asks, until all others have said that they got ``value``.

    What earlier attempts left on the board does no harm: an answer is for one question, and a question of a process
    that is dead is answered in vain.

    Raises:
        UserError: some did not come.
    """
    mine, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    missing = list(range(1, world_size))
    while missing:
        for rank in missing:
            if board.check([f"question/{rank}"]):
                board.set(f"answer/{board.get(f'question/{rank}').decode()}", f"{mine} {value}")
        missing = [rank for rank in missing if not board.check([f"thanks/{mine}/{rank}"])]
        _pause(deadline, f"process {missing[0]}" if missing else "")


def ask(board: dist.Store, rank: int, timeout: timedelta) -> str:
    """What the process 0 that lives now gives out.

    Raises:
        UserError: it did not come.
    """
    question, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    board.set(f"question/{rank}", question)
    # Not a blocking get: within one, a signal to stop would not be heard.
    while not board.check([f"answer/{question}"]):
        _pause(deadline, "process 0")
    asked, value = board.get(f"answer/{question}").decode().split(" ", 1)
    board.set(f"thanks/{asked}/{rank}", "")
    return value


def _pause(deadline: float, missing: str) -> None:
    if missing and time.monotonic() > deadline:
        raise UserError(
            f"waited in vain for {missing} to start; see its log for why, or wait longer with trainer.timeout_hours"
        )
    time.sleep(_PAUSE_S)
