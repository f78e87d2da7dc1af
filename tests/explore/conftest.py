"""One real server for all tests that talk to one: a process of its own, on a free port, with the bundled model."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

PATIENCE_S = 120


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    log: Path
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid


def start(folder: Path, *argv: str) -> Server:
    log = folder / "explore.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "lit_simignore.explore", "port=0", "device=cpu", *argv]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    return Server(process, log, int(found.group(1)))


def stop(server: Server) -> int:
    server.process.send_signal(signal.SIGINT)
    try:
        return server.process.wait(timeout=PATIENCE_S)
    finally:
        server.process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = start(tmp_path_factory.mktemp("explore"), "max_upload_mib=1")
    yield started
    stop(started)
