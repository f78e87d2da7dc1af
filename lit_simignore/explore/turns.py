"""One question at a time: the model is not shared between threads, and work that nobody waits for is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")


class Turns:
    """A queue of one worker.

    The page gives up an older question by closing its connection, so the newest one wins without anything that server
    and page would have to agree on, and a closed tab stops costing.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._stops: set[threading.Event] = set()

    async def take(self, request: Request, work: Callable[[threading.Event], T]) -> T:
        """Run ``work`` when its turn comes.

        Args:
            request: whose body was read; when its browser goes away, the event is set.
            work: gets the event and looks at it from time to time, before anything else as well.
        """
        stop = threading.Event()
        self._stops.add(stop)
        running = asyncio.get_running_loop().run_in_executor(self._worker, work, stop)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            waited: set[asyncio.Future[Any]] = {running, gone}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                stop.set()
            return await running
        finally:
            stop.set()
            gone.cancel()
            self._stops.discard(stop)

    def close(self) -> None:
        """Stop what runs, drop what waits."""
        for stop in self._stops:
            stop.set()
        self._worker.shutdown(wait=False, cancel_futures=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
