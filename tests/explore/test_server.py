"""The server as a process: what it answers, to whom, and that nothing brings it down."""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_simignore.explore.guard import HEADERS
from tests.explore.conftest import Server, start, stop

ASKED = {"image": "scene-1", "question": "Is there a red circle in the image?", "prune": "stride", "num_keep": 36}


def call(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        data, kind = response.read(), response.headers.get("content-type", "")
        return response.status, json.loads(data) if "json" in kind else data, dict(response.headers)
    finally:
        connection.close()


def ask(server: Server, **said: object) -> tuple[int, Any]:
    return call(server, "POST", "/ask", json.dumps({**ASKED, **said}).encode())[:2]


def png(width: int = 40, height: int = 30, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_the_page_and_its_files_are_served_with_safety_headers(server: Server) -> None:
    for path, kind in (("/", "text/html"), ("/explore.js", "text/javascript"), ("/explore.css", "text/css"),
                       ("/report.css", "text/css")):  # fmt: skip
        status, data, headers = call(server, "GET", path)
        assert status == 200 and data and headers["content-type"].startswith(kind)
        assert {name.lower(): value for name, value in HEADERS.items()}.items() <= headers.items()
        assert "server" not in headers


@pytest.mark.parametrize("path", ["/../pyproject.toml", "/explore.py", "/%2e%2e/x", "/etc/passwd", "/docs", "/image"])
def test_nothing_else_is_served(server: Server, path: str) -> None:
    assert call(server, "GET", path)[0] in (404, 405)


def test_a_question_is_answered_with_the_tokens_that_were_kept(server: Server) -> None:
    status, found = ask(server)
    assert (status, found["method"], found["num_visual"]) == (200, "stride@36", 144)
    assert "36 of 144 visual tokens" in found["result"] and "144 of 144 visual tokens" in found["result"]


def test_a_loaded_image_can_be_asked_about(server: Server) -> None:
    status, loaded, _ = call(server, "POST", "/image", png(400, 20))
    assert status == 200 and "400 × 20 pixels" in loaded["title"]
    status, found = ask(server, image=loaded["image"])
    assert status == 200 and found["method"] == "stride@36"


def bomb() -> bytes:
    """A small file of many pixels."""
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"no image at all", 400, "not an image, or in a format that Pillow does not read: the loaded file"),
        (b"", 400, "not an image"),
        (png()[:60], 400, "the loaded file"),
        (bomb(), 400, "image has 8000x8000 pixels, more than 50000000; make it smaller"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "not an image"),
        (png() + b"\0" * (1 << 20), 413, "the image file is larger than 1 MiB; make it smaller"),
    ],
    ids=["text", "nothing", "cut off", "pixel bomb", "program", "too large"],
)
def test_a_bad_file_is_a_message_and_the_server_stays(server: Server, data: bytes, status: int, words: str) -> None:
    found, said, _ = call(server, "POST", "/image", data)
    assert (found, words in said["error"], "\n" in said["error"]) == (status, True, False)
    assert ask(server)[0] == 200


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"question": " "}, "a question is needed"),
        ({"image": "image-nobody-knows"}, "an image is needed: load one"),
        ({"prune": "cdpruner"}, "CDPruner needs a text tower that matches the vision tower, which Llava models do not"),
        ({"prune": "simignor"}, "unknown method 'simignor'; did you mean 'simignore'"),
        ({"prune": "fastv", "prune_settings": "layer_idx=9"}, "FastV drops before decoder layer 9; this decoder takes"),
        ({"prune": "fastv", "prune_settings": "layr=2"}, "unknown key; did you mean 'layer_idx'"),
        ({"prune": "text-only"}, "TextOnly spends 0 visual tokens"),
        ({"num_keep": -3}, "num_keep must be a whole number"),
        ({"question": "red " * 900}, "makes a prompt of"),
        ({"question": "<image>"}, "its text contains '<image>'"),
    ],
)
def test_what_cannot_be_answered_is_a_message(server: Server, said: dict[str, object], words: str) -> None:
    status, found = ask(server, **said)
    assert (status, words in found["error"], "\n" in found["error"]) == (400, True, False), found


def test_what_is_odd_but_possible_is_a_note(server: Server) -> None:
    status, found = ask(server, num_keep=500, question="Is there a dragon in the image?")
    assert status == 200 and found["method"] == "stride@500"
    assert "num_keep is 500, and the image has 144 visual tokens: all of them are kept." in found["result"]
    assert "The model does not know “dragon”" in found["result"]


def test_what_is_no_question_is_a_message(server: Server) -> None:
    for body, words in ((b"{", "expected JSON"), (b"[" * 50_000, "expected JSON"), (b"3", "expected an object")):
        status, said, _ = call(server, "POST", "/ask", body)
        assert status == 400 and words in said["error"]
    assert call(server, "POST", "/ask", b" " * 70_000)[0] == 413


def test_strangers_are_refused(server: Server) -> None:
    body = json.dumps(ASKED).encode()
    assert call(server, "GET", "/", Host="evil.example")[0] == 403
    assert call(server, "POST", "/ask", body, Origin="http://evil.example")[0] == 403
    assert call(server, "POST", "/image", png(), Origin="null")[0] == 403
    assert call(server, "POST", "/ask", body, Origin=server.address)[0] == 200


def listening(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which the process listens, from the kernel's tables."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
                found.add((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables of sockets")
def test_it_listens_on_the_loopback_device_only(server: Server) -> None:
    assert listening(server.pid) == {("127.0.0.1", server.port)}
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:  # the tables would have shown another one
        assert listening(os.getpid()) >= {("0.0.0.0", open_to_all.getsockname()[1])}


@pytest.mark.slow
def test_ctrl_c_stops_it_without_a_word_of_failure(tmp_path: Path) -> None:
    started = start(tmp_path, "max_new_tokens=4")
    assert ask(started)[0] == 200
    assert stop(started) == 0
    text = started.log.read_text()
    assert text.endswith("stopped\n") and "Traceback" not in text
