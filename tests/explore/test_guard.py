"""Requests that come from other sites, or under another name, are refused."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from lit_simignore.explore.guard import stranger


def refused(method: str, **headers: str) -> bool:
    return stranger(method, Headers({name.replace("_", "-"): value for name, value in headers.items()})) != ""


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST:1", "127.0.0.1", "[::1]:7860"])
def test_this_machine_is_served_under_its_own_names_and_any_port(host: str) -> None:
    assert not refused("GET", host=host)
    assert not refused("POST", host=host, origin=f"http://{host}", sec_fetch_site="same-origin")
    assert not refused("POST", host=host)  # no browser: those say where they come from


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "evil.example@127.0.0.1", "", "127.0.0.1:7860:1",
     "192.168.0.7:7860", "localhost.", "127.0.0.1:x"],
)  # fmt: skip
def test_another_name_that_points_here_is_refused(host: str) -> None:
    assert refused("GET", host=host) and refused("POST", host=host, origin=f"http://{host}")


def test_two_names_are_refused() -> None:
    headers = Headers(raw=[(b"host", b"127.0.0.1"), (b"host", b"evil.example")])
    assert stranger("GET", headers)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:7860", "http://127.0.0.1:3000", "http://localhost:7860"],
)
def test_questions_from_other_pages_are_refused(origin: str) -> None:
    assert refused("POST", host="127.0.0.1:7860", origin=origin)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_questions_that_a_browser_calls_foreign_are_refused(site: str) -> None:
    assert refused("POST", host="127.0.0.1:7860", sec_fetch_site=site)
