"""The site and the rest of the repository: the same Markdown is right in both.

The pages of ``experiments/`` are part of the site, and so are pictures that any page shows, wherever they lie. A link
to another file of the repository, ``[code](../lit_simignore/tracking.py)``, works for whoever reads the page there; on
the site there is nothing at that place, so the reader is told the file's path instead. A path that does not exist stays
as it is, and the strict build fails on it.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

from mkdocs.structure.files import File

_LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\]\n]*)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCED = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.M | re.S)
TAKEN = "experiments"
"""Folder beside ``docs/`` whose pages are part of the site."""
PICTURES = "repository"
"""Folder of the site with pictures from other places of the repository."""


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs with everything in ``docs/``: adds the pages and pictures from elsewhere."""
    docs = Path(config["docs_dir"]).resolve()
    for path in sorted(docs.parent.glob(f"{TAKEN}/**/*.md")):
        files.append(File.generated(config, path.relative_to(docs.parent).as_posix(), abs_src_path=str(path)))
    found: dict[str, Path] = {}
    for page in list(files.documentation_pages()):
        source = Path(page.abs_src_path)
        for link in _LINK.finditer(source.read_text(encoding="utf-8")):
            target = source.parent.joinpath(link["path"]).resolve()
            if link["bang"] and target.is_file() and not target.is_relative_to(docs):
                found[str(_place(docs, target, picture=True))] = target
    for name, target in sorted(found.items()):
        files.append(File.generated(config, name, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    docs, source, here = Path(config["docs_dir"]).resolve(), Path(page.file.abs_src_path), page.file.src_uri

    def on_site(link: re.Match[str]) -> str:
        target = source.parent.joinpath(link["path"]).resolve()
        if not target.exists() or not target.is_relative_to(docs.parent):
            return link[0]
        name = _place(docs, target, picture=bool(link["bang"]))
        if name is not None:
            return f"{link['bang']}[{link['text']}]({relpath(name, dirname(here) or '.')}{link['anchor'] or ''})"
        path = target.relative_to(docs.parent).as_posix()
        return f"`{path}`" if link["text"].strip("`") == path else f"{link['text']} (`{path}`)"

    parts, end = [], 0
    for fence in _FENCED.finditer(markdown):
        parts += [_LINK.sub(on_site, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(on_site, markdown[end:])])


def _place(docs: Path, target: Path, picture: bool) -> str | None:
    """Where the site has a file of the repository; ``None`` where it does not."""
    if target.is_relative_to(docs):
        return target.relative_to(docs).as_posix()
    name = target.relative_to(docs.parent).as_posix()
    if picture:
        return f"{PICTURES}/{name}"
    return name if name.startswith(f"{TAKEN}/") and target.suffix == ".md" else None
