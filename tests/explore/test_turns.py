"""One at a time, and nothing for those who went away: a real server, real connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lit_simignore.explore.turns import Turns

PATIENCE_S = 30.0


class Bench:
    """A server whose work takes as long as the test wants, and notes what happens."""

    def __init__(self) -> None:
        self.turns, self.notes, self.finish = Turns(), [], threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        app = Starlette(routes=[Route("/{name}", self.serve, methods=["POST"])])
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    async def serve(self, request: Request) -> Response:
        await request.body()
        name = request.path_params["name"]

        def work(stop: threading.Event) -> str:
            if stop.is_set():
                self.notes.append(f"{name} skipped")
                return ""
            self.notes.append(f"{name} began")
            while not (stop.is_set() or self.finish.is_set()):
                time.sleep(0.005)
            self.notes.append(f"{name} {'dropped' if stop.is_set() else 'finished'}")
            return name

        return PlainTextResponse(await self.turns.take(request, work))

    def ask(self, name: str) -> socket.socket:
        connection = socket.create_connection(self.listening.getsockname(), timeout=PATIENCE_S)
        connection.sendall(f"POST /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        return connection

    @staticmethod
    def answer(connection: socket.socket) -> str:
        """The body, which ends where its announced length does."""
        response = HTTPResponse(connection)
        response.begin()
        return response.read().decode()

    def until(self, note: str) -> None:
        wait_for(lambda: note in self.notes)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture()
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.finish.set()
    made.turns.close()
    made.server.should_exit = True
    made.thread.join(PATIENCE_S)
    made.listening.close()


def test_questions_are_answered_one_after_the_other(bench: Bench) -> None:
    first = bench.ask("first")
    bench.until("first began")
    second = bench.ask("second")
    bench.finish.set()
    assert (bench.answer(first), bench.answer(second)) == ("first", "second")
    assert bench.notes == ["first began", "first finished", "second began", "second finished"]


def test_closing_the_connection_drops_the_work(bench: Bench) -> None:
    given_up = bench.ask("old")
    bench.until("old began")
    waiting = bench.ask("older")
    newest = bench.ask("new")
    wait_for(lambda: len(bench.turns._stops) == 3)
    waiting.close()
    wait_for(lambda: sum(stop.is_set() for stop in list(bench.turns._stops)) == 1)
    given_up.close()
    bench.until("new began")
    bench.finish.set()
    assert bench.answer(newest) == "new"
    assert bench.notes == ["old began", "old dropped", "older skipped", "new began", "new finished"]


def test_closing_the_server_drops_what_runs(bench: Bench) -> None:
    bench.ask("old")
    bench.until("old began")
    bench.turns.close()
    bench.until("old dropped")
