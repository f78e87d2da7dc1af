"""Fences with a mark, as CONTRIBUTING.md describes them, in the form that the site's Markdown reads.

``bash gpu`` is what editors and code hosts highlight as bash; the site wants ``bash {.gpu}``, which becomes a class.
"""

from __future__ import annotations

import re
from typing import Any

MARKS = ("gpu", "long")
_OPENING = re.compile(rf"^(?P<fence>[ \t]*`{{3,}}\w+)[ \t]+(?P<mark>{'|'.join(MARKS)})\b(?P<rest>[^\n{{}}]*)$", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    return _OPENING.sub(lambda found: f"{found['fence']} {{.{found['mark']}{found['rest'].rstrip()}}}", markdown)
