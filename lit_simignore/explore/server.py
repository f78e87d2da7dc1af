"""Starts the server: a socket on the loopback device, the model, the page."""

from __future__ import annotations

import os
import socket
import webbrowser

import uvicorn

from lit_simignore.explore.app import build_app, open_counter
from lit_simignore.explore.desk import Desk, place
from lit_simignore.explore.settings import ExploreConfig
from lit_simignore.loading import load_model
from lit_simignore.types import UserError

HOST = "127.0.0.1"
"""Never another one: whoever reaches the page can use the model. From elsewhere, use a tunnel (``ssh -L``)."""


def serve(config: ExploreConfig) -> None:
    """Load the model and serve the page until Ctrl-C.

    Raises:
        UserError: the port is taken, or there is no such model or device.
    """
    with listen(config.port) as listening:  # first: loading can take minutes, and a port that is taken ends it at once
        model, processor = load_model(config.model)
        desk = Desk(place(model, config.device), processor, config.max_new_tokens)
        app = build_app(open_counter(desk, config.model.name, config.max_upload_mib))
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        print(f"{config.model.name}: {address}  (Ctrl-C stops)", flush=True)
        if config.browser:
            webbrowser.open(address)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            print("stopped")


def listen(port: int) -> socket.socket:
    """A socket on the loopback device.

    Raises:
        UserError: the port is taken or not allowed.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"cannot listen on {HOST}:{port}: {why}; give another port=, or port=0 for a free one"
        ) from error
