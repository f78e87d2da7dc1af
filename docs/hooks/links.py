"""Links from a page to files of the repository that are not part of the site.

``[the log](../experiments/LOG.md)`` works for whoever reads the page in the repository. On the site there is nothing at
that place, so the reader is told the file's path instead. A path that does not exist stays a link, and the strict build
fails on it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<path>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    docs = Path(config["docs_dir"]).resolve()
    here = docs.joinpath(page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        target = (here / link["path"]).resolve()
        if not target.exists() or target.is_relative_to(docs) or not target.is_relative_to(docs.parent):
            return link[0]
        path = target.relative_to(docs.parent).as_posix()
        text = link["text"].strip("`")
        return f"`{path}`" if text == path else f"{link['text']} (`{path}`)"

    return _LINK.sub(shown, markdown)
