"""Who may talk to the server: this machine's own browser pages, and of those only ours.

A page of another site can make a browser send requests to 127.0.0.1, directly or through a name that it lets point
there. The first kind says where it comes from (``Origin``), the second kind asks for another host (``Host``).
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Any port: it is another one behind a tunnel (``ssh -L``)."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI application around another one: refuses strangers and gives every answer its safety headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = stranger(scope["method"], Headers(scope=scope))
        if problem:
            await JSONResponse({"error": problem}, 403)(scope, receive, send_safely)
        else:
            await self._app(scope, receive, send_safely)


def stranger(method: str, headers: Headers) -> str:
    """Why a request is refused; empty for one that comes from our page, or from no browser at all."""
    host = headers.get("host", "")
    if re.sub(r":\d{1,5}$", "", host).lower() not in HOSTS or len(headers.getlist("host")) != 1:
        return f"this page is served to {', '.join(HOSTS)} only; open it under one of these"
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if method not in ("GET", "HEAD") and (
        (origin is not None and origin.lower() != f"http://{host}".lower()) or site not in (None, "same-origin")
    ):
        return "questions are taken from the page itself only, not from other sites"
    return ""
