"""Looking into a page without a browser: its elements, attributes and text, as an HTML parser sees them."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """A parsed page.

    ``tags`` counts start tags, ``attributes`` lists ``(tag, name, value)``, ``raw`` holds the contents of script and
    style elements, ``text`` all other text.
    """

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.declarations: list[str] = []
        self.classes: Counter[str] = Counter()
        self._texts: list[str] = []
        self._inside = ""
        self.feed(source)
        self.close()
        self.text = "".join(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.classes.update(word for name, value in attrs if name == "class" for word in (value or "").split())
        self._inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside].append(data)
        else:
            self._texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.declarations.append(data)

    def unknown_decl(self, data: str) -> None:
        self.declarations.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))
