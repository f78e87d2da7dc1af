"""Saying that another process of the run is gone, where torch only says that a connection broke."""

from __future__ import annotations

import re

import torch.distributed as dist

_SILENCE = re.compile(r"connect|reset by peer|broken pipe|timed? ?out|remote process", re.IGNORECASE)
_SHOWN = 200


def lost_process(error: BaseException) -> str | None:
    """What to tell about a failure to reach another process; ``None`` for any other failure.

    A process that dies breaks the connections of all others, so that each of them fails with the words of the network.
    Gloo raises a plain ``RuntimeError`` that names its source file, NCCL and the store raise torch's ``DistError``.

    Args:
        error: what ended this process.
    """
    said = " ".join(str(error).split())
    if not isinstance(error, RuntimeError) or not _SILENCE.search(said):
        return None
    if not isinstance(error, dist.DistError) and "gloo/" not in said:
        return None
    shown = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
    return (
        "another process of this run is gone or does not answer; look for what it said, or for what killed it. "
        f"The same command continues. ({type(error).__name__}: {shown})"
    )
