"""Links and pictures of a page that lead to files of the repository outside ``docs/``.

``[the log](../experiments/LOG.md)`` works for whoever reads the page in the repository. On the site there is nothing at
that place, so the reader is told the file's path instead. A picture is taken into the site. A path that does not exist
stays as it is, and the strict build fails on it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any

from mkdocs.structure.files import File

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<path>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_PICTURE = re.compile(r"(?P<before>!\[[^\]]*\]\()(?P<path>\.\./[^)#\s]+)\)")
TAKEN = "repository"
"""Folder of the site with pictures from other places of the repository."""


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs with everything in ``docs/``: adds the pictures that pages show from elsewhere."""
    docs = Path(config["docs_dir"]).resolve()
    known: set[Path] = set()
    for page in files.documentation_pages():
        text = Path(page.abs_src_path).read_text(encoding="utf-8")
        targets = (_outside(docs, page.src_uri, found["path"]) for found in _PICTURE.finditer(text))
        known |= {target for target in targets if target is not None}
    for target in sorted(known):
        name = f"{TAKEN}/{target.relative_to(docs.parent).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    docs, here = Path(config["docs_dir"]).resolve(), page.file.src_uri

    def told(link: re.Match[str]) -> str:
        target = _outside(docs, here, link["path"])
        if target is None:
            return link[0]
        path = target.relative_to(docs.parent).as_posix()
        return f"`{path}`" if link["text"].strip("`") == path else f"{link['text']} (`{path}`)"

    def taken(picture: re.Match[str]) -> str:
        target = _outside(docs, here, picture["path"])
        if target is None:
            return picture[0]
        name = f"{TAKEN}/{target.relative_to(docs.parent).as_posix()}"
        return f"{picture['before']}{relpath(name, str(PurePosixPath(here).parent))})"

    return _PICTURE.sub(taken, _LINK.sub(told, markdown))


def _outside(docs: Path, page: str, path: str) -> Path | None:
    """The file of the repository that a page means, if it exists and is no part of the site already."""
    target = (docs / page).parent.joinpath(path).resolve()
    inside = target.is_relative_to(docs) or not target.is_relative_to(docs.parent)
    return None if inside or not target.exists() else target
