"""Whatever goes wrong behind a question is one line of JSON, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from lit_simignore.explore.app import TooLarge, _answered
from lit_simignore.explore.desk import Stopped
from lit_simignore.types import UserError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RuntimeError("sizes\n differ"), 500, "RuntimeError: sizes differ"),
        (MemoryError("no room"), 500, "MemoryError: no room"),
        (UserError("no such\n method"), 400, "no such method"),
        (TooLarge("more than 1 MiB"), 413, "more than 1 MiB"),
        (Stopped(), 409, "stopped"),
    ],
    ids=repr,
)
def test_a_failure_is_one_line(error: Exception, status: int, line: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: object, counter: object) -> dict[str, object]:
        raise error

    with caplog.at_level(logging.WARNING):
        response = asyncio.run(_answered(None, None, fail))  # type: ignore[arg-type]
    assert (response.status_code, json.loads(response.body)) == (status, {"error": line})
    # What is nobody's mistake in asking is told whole where the server was started.
    assert [bool(record.exc_info) for record in caplog.records] == [True] * (status == 500)
