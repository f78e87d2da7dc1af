"""A page of one file: its policy allows its own style sheet and script by their hashes, and pictures within it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from lit_simignore.report.markup import Markup, element

_HERE = Path(__file__).parent


def document(title: str, body: Sequence[Markup | None], style: Markup, script: Markup) -> str:
    """A whole page.

    Args:
        title: of the window.
        body: what is shown.
        style: style sheet, from :func:`asset`.
        script: runs when the body is there; from :func:`asset`.
    """
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    ]
    inner = element("body", *body, element("script", script))
    return "<!DOCTYPE html>\n" + element("html", element("head", *head), inner, lang="en") + "\n"


def asset(*names: str) -> Markup:
    """Files of this package, one after the other; nothing from a run is ever put into them."""
    texts = [(_HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n") for name in names]
    return Markup("\n".join(texts))


def replace_file(path: Path, text: str) -> Path:
    """Write a file in one step."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
