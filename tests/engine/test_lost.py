"""Which failures mean that another process is gone; real ones are in ``test_finetune_killed.py``."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from lit_simignore.engine.lost import lost_process

GLOO = (
    "[/x/third_party/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:4:\n Connection reset by peer." + "x" * 300
)
NCCL = "NCCL error in: x.cpp:2044, remote process exited or there was a network error, NCCL version 2.26.2"


@pytest.mark.parametrize("error", [RuntimeError(GLOO), dist.DistBackendError(NCCL)])
def test_a_broken_connection_is_one_line_that_says_how_to_go_on(error: RuntimeError) -> None:
    said = lost_process(error)
    assert said is not None and "\n" not in said and len(said) < 450
    assert said.startswith("another process of this run is gone") and "The same command continues" in said
    assert str(error)[:40] in said


def test_a_process_that_never_came_is_lost_too() -> None:
    with pytest.raises(dist.DistStoreError) as caught:
        dist.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(milliseconds=50))
    assert lost_process(caught.value) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("connection to the hub timed out"),
        dist.DistBackendError("NCCL error: invalid usage, Duplicate GPU detected"),
        ConnectionError("gloo/ reset by peer"),
    ],
)
def test_other_failures_are_left_alone(error: Exception) -> None:
    assert lost_process(error) is None
