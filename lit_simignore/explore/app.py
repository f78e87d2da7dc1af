"""What the server answers: the page, its style sheets and script, images to ask about, questions."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lit_simignore.explore.answers import result
from lit_simignore.explore.desk import Desk, Stopped
from lit_simignore.explore.examples import draw_examples
from lit_simignore.explore.guard import Guard
from lit_simignore.explore.page import render_page
from lit_simignore.explore.shelf import MAX_PIXELS, Held, Shelf
from lit_simignore.explore.turns import Turns
from lit_simignore.explore.wish import Wish, read_wish
from lit_simignore.explore.words import all_words, unknown_words
from lit_simignore.report import html
from lit_simignore.report.markup import element
from lit_simignore.surgery.images import open_bytes
from lit_simignore.surgery.load import BUNDLED
from lit_simignore.types import UserError

MAX_WISH_BYTES = 64 << 10
_LOG = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_FILES = {
    "/explore.js": (_HERE / "explore.js", "text/javascript"),
    "/explore.css": (_HERE / "explore.css", "text/css"),
    "/report.css": (Path(html.__file__).with_name("page.css"), "text/css"),
}
"""Every file that can be asked for: no address is ever turned into a path."""


class TooLarge(UserError):
    """More bytes than are taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """What the answers are given from.

    Args:
        desk: asks the model.
        shelf: holds the images.
        turns: whose turn it is.
        page: the page as text.
        max_upload_mib: largest image file, in MiB.
    """

    desk: Desk
    shelf: Shelf
    turns: Turns
    page: str
    max_upload_mib: int


def open_counter(desk: Desk, name: str, max_upload_mib: int) -> Counter:
    """Draw the examples, try every method on the model, and make the page."""
    shelf = Shelf(desk.processor)
    examples = [(example, shelf.keep(example.key, example.image)) for example in draw_examples()]
    example, held = examples[0]
    wish = Wish(held.key, example.questions[0].text)
    words = all_words(desk.processor.tokenizer)
    page = render_page(
        name,
        desk.about(),
        examples,
        desk.offers(wish, held),
        words,
        desk.num_visual(wish, held),
        max_upload_mib,
        bundled=name in BUNDLED,
    )
    return Counter(desk, shelf, Turns(), page, max_upload_mib)


def build_app(counter: Counter) -> ASGIApp:
    """The ASGI application."""

    async def page(request: Request) -> Response:
        return HTMLResponse(counter.page)

    async def image(request: Request) -> Response:
        return await _answered(request, counter, _load)

    async def ask(request: Request) -> Response:
        return await _answered(request, counter, _ask)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        yield
        counter.turns.close()

    routes = [
        Route("/", page),
        *(Route(path, _file(file, kind)) for path, (file, kind) in _FILES.items()),
        Route("/image", image, methods=["POST"]),
        Route("/ask", ask, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan))


def _file(path: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind)

    return send


async def _answered(
    request: Request, counter: Counter, work: Callable[[Request, Counter], Awaitable[Mapping[str, Any]]]
) -> Response:
    """JSON of what ``work`` found, or one line on why it found nothing."""
    try:
        return JSONResponse(dict(await work(request, counter)))
    except Stopped:
        return JSONResponse({"error": "stopped"}, 409)
    except TooLarge as error:
        return _refused(error, 413)
    except UserError as error:
        return _refused(error, 400)
    # Whatever a model, a method or a plugin does wrong costs this answer, not the server.
    except Exception as error:
        _LOG.exception("not answered")
        return JSONResponse({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}, 500)


def _refused(error: UserError, status: int) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, status)


async def _load(request: Request, counter: Counter) -> Mapping[str, Any]:
    """Take an image file, which is the whole body."""
    data = await read_body(request, counter.max_upload_mib << 20, "the image file")

    def open_it(stop: threading.Event) -> Held:
        return counter.shelf.add(open_bytes(data, "the loaded file", max_pixels=MAX_PIXELS))

    held = await counter.turns.take(request, open_it)
    title = f"loaded image, {held.image.width} × {held.image.height} pixels"
    picture = element("img", src=held.picture.uri, alt=title, width=72, height=72)
    return {"image": held.key, "title": title, "picture": picture}


async def _ask(request: Request, counter: Counter) -> Mapping[str, Any]:
    """Answer one wish."""
    body = await read_body(request, MAX_WISH_BYTES, "the question")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected JSON with image, question and method; got {type(error).__name__}") from error
    wish = read_wish(said)
    held = counter.shelf.get(wish.image)

    def answer(stop: threading.Event) -> Mapping[str, Any]:
        return _answer(wish, held, counter.desk, stop)

    return await counter.turns.take(request, answer)


def _answer(wish: Wish, held: Held, desk: Desk, stop: threading.Event) -> Mapping[str, Any]:
    base, found = desk.ask(wish, held, stop)
    total = found.call.num_visual[0]
    notes = []
    unknown = unknown_words(desk.processor.tokenizer, "\n".join([wish.question, *wish.options]))
    if unknown:
        shown = ", ".join(f"“{word}”" for word in unknown[:8])
        notes.append(f"The model does not know {shown}: to it they are all the same unknown word.")
    if wish.num_keep is not None and wish.num_keep > total:
        notes.append(f"num_keep is {wish.num_keep:,}, and the image has {total:,} visual tokens: all of them are kept.")
    return {"result": result(base, found, held, notes), "method": found.name, "num_visual": total}


async def read_body(request: Request, limit: int, name: str) -> bytes:
    """The body, of at most ``limit`` bytes; what goes beyond is read and dropped, so that the refusal arrives.

    Raises:
        TooLarge: there was more.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
    if size > limit:
        unit = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        raise TooLarge(f"{name} is larger than {unit}; make it smaller, or start with a larger max_upload_mib")
    return b"".join(parts)
