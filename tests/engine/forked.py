"""Two processes without starting Python twice: forked from the test, meeting over gloo as torchrun's would."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WAIT_S = 240


def run_forked(work: Callable[[int], Any], folder: Path, world: int = 2) -> list[Any]:
    """What ``work(rank)`` returns in every process, by rank; a failure in one is raised here with its traceback."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_child, args=(work, rank, world, port, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_S)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    found = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(world)
             if (folder / f"{rank}.pkl").exists()]  # fmt: skip
    failures = [text for kind, text in found if kind == "error"]
    assert not failures, "\n".join(failures)
    assert not hanging and len(found) == world, (
        f"{len(hanging)} processes hang, {len(found)} of {world} answered\n"
        + "\n".join(f"process {rank} was at:\n{(folder / f'{rank}.stack').read_text()}" for rank in range(world))
    )
    return [value for _, value in found]


def _child(work: Callable[[int], Any], rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    stack = (folder / f"{rank}.stack").open("w")
    faulthandler.dump_traceback_later(WAIT_S * 0.9, file=stack)
    os.environ.update(
        LOCAL_RANK=str(rank), RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    try:
        answer = ("value", work(rank))
    except BaseException:
        answer = ("error", f"process {rank}:\n{traceback.format_exc()}")
    (folder / f"{rank}.pkl").write_bytes(pickle.dumps(answer))
    os._exit(0)  # without the parent's handlers and test session


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
