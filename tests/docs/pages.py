"""The blocks of the pages and of the README: what stands in a fence, and what its first line says about it.

``bash`` and ``python`` are run; ``bash gpu``, ``python long`` and so on are only checked; a fence with
``title="a/b.py"`` is a file of that name in the reader's folder.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
LANGUAGES = ("bash", "python")
MARKS = ("gpu", "long")

_FENCE = re.compile(
    r"^[ \t]*(?P<fence>`{3,})(?P<lang>[\w-]*)(?P<rest>[^\n`]*)\n(?P<text>.*?)^[ \t]*(?P=fence)[ \t]*$", re.M | re.S
)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fence.

    Args:
        page: the page's path in the repository.
        line: 1-based, of the first line inside.
        lang: ``bash``, ``python``, ``text``, ...
        marks: words behind the language: ``gpu``, ``long``.
        title: the file that the block is, if it is one.
        text: what stands inside, without the indent of the fence.
    """

    page: str
    line: int
    lang: str
    marks: frozenset[str]
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_file(self) -> bool:
        """Whether the block is written into the reader's folder."""
        return self.title is not None

    @property
    def is_run(self) -> bool:
        """Whether the block is executed."""
        return self.lang in LANGUAGES and not self.marks and not self.is_file

    @property
    def is_checked(self) -> bool:
        """Whether the block is only resolved."""
        return self.lang in LANGUAGES and bool(self.marks) and not self.is_file


def blocks(page: Path) -> list[Block]:
    """All fences of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, found) for found in _FENCE.finditer(text)]


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    title = _TITLE.search(found["rest"])
    words = _TITLE.sub("", found["rest"]).split()
    return Block(
        page=page.relative_to(ROOT).as_posix(),
        line=text.count("\n", 0, found.start("text")) + 1,
        lang=found["lang"],
        marks=frozenset(words),
        title=title[1] if title else None,
        text=textwrap.dedent(found["text"]),
    )
