"""Samples one by one: the question with its options and answer, and a tile for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase

from lit_simignore.report.folder import RunFolder
from lit_simignore.report.formats import clean, one_line, shorten
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.media import Picture
from lit_simignore.report.overlay import definitions
from lit_simignore.report.palette import Look, looks
from lit_simignore.report.summary import BASELINE, MethodRow
from lit_simignore.report.tile import Shown, tile
from lit_simignore.types import Prediction, UserError

_SIZE_LIMIT = 4_000_000
_PROMPT_LIMIT, _CHOICE_LIMIT, _MOST_CHOICES = 3000, 300, 40
_FEW = 4


@dataclass(slots=True)
class Gallery:
    """The samples of a report.

    Args:
        cards: one per sample, in order.
        pictures: the images that the cards refer to, each once.
        columns: widths of the grids in use.
        kinds: kinds of question among the cards, in order of appearance.
        left_out: samples that did not fit into the limit on the file's size.
    """

    cards: list[Markup] = field(default_factory=list)
    pictures: dict[str, Picture] = field(default_factory=dict)
    columns: set[int] = field(default_factory=set)
    kinds: list[str] = field(default_factory=list)
    left_out: int = 0

    def definitions(self) -> Markup:
        """The hidden element that the cards' pictures point into."""
        return definitions(self.pictures.values(), self.columns)


def build_gallery(folder: RunFolder, size_limit: int = _SIZE_LIMIT) -> Gallery:
    """Draw cards until ``size_limit`` characters are used up; the rest is counted."""
    gallery, used = Gallery(), 0
    look_of = looks(row.name for row in folder.view.rows)
    for position, (sample, records) in enumerate(folder.samples.items()):
        images = _images(folder, sample)
        fresh = {s.picture.key: s.picture for s in images if s.picture and s.picture.key not in gallery.pictures}
        kind = one_line(next(iter(records.values())).kind)
        kinds = gallery.kinds if kind in gallery.kinds else [*gallery.kinds, kind]
        card = _card(folder.view.rows, look_of, records, images, position, kinds.index(kind))
        size = len(card) + sum(len(picture.uri) for picture in fresh.values())
        if used + size > size_limit and gallery.cards:
            gallery.left_out = len(folder.samples) - position
            break
        used += size
        gallery.cards.append(card)
        gallery.pictures.update(fresh)
        gallery.columns.update(shown.entry.cols for shown in images if shown.entry.cols)
        gallery.kinds = kinds
    return gallery


def _images(folder: RunFolder, sample: str) -> list[Shown]:
    found = []
    for entry in folder.media.index.get(sample, ()):
        try:
            found.append(Shown(entry, folder.media.picture(entry)))
        except UserError as error:
            found.append(Shown(entry, None, str(error)))
    return found


def _card(
    rows: Sequence[MethodRow],
    look_of: Mapping[str, Look],
    records: Mapping[str, Prediction],
    images: Sequence[Shown],
    position: int,
    kind: int,
) -> Markup:
    first, base = next(iter(records.values())), records.get(BASELINE)
    tiles = [
        tile(row, look_of[row.name], records[row.key], base, images, column)
        for column, row in enumerate(rows)
        if row.key in records
    ]
    heading = element(
        "h3",
        element("span", f"#{position + 1}", class_="position"),
        element("bdi", shorten(one_line(first.sample_id), 80)),
        element("span", shorten(one_line(first.kind), 60), class_="chip") if first.kind else None,
    )
    beside = element("div", *tiles, class_="tiles few" if len(tiles) <= _FEW else "tiles")
    body = element("div", _question(first), beside, class_="card-body")
    return element("article", heading, body, class_="card", data_k=kind)


def _question(record: Prediction) -> Markup:
    choices = [str(choice) for choice in record.choices or ()] if isinstance(record.choices, list | tuple) else []
    gold = None if record.answer is None else one_line(record.answer)
    if all(choice in record.prompt for choice in choices):
        gold, choices = _with_text(gold, choices), []
    options = [_option(index, choice, gold) for index, choice in enumerate(choices[:_MOST_CHOICES])]
    return element(
        "div",
        element("p", shorten(clean(record.prompt).strip(), _PROMPT_LIMIT), class_="prompt", dir="auto"),
        element("ol", *options, class_="options") if options else None,
        _gold(gold),
        class_="question",
    )


def _option(index: int, choice: str, gold: str | None) -> Markup:
    names = (_letter(index).casefold(), one_line(choice).casefold())
    return element(
        "li",
        element("span", f"{_letter(index)} ", class_="letter"),
        element("bdi", shorten(one_line(choice), _CHOICE_LIMIT)),
        class_="gold" if gold is not None and gold.casefold() in names else None,
    )


def _gold(gold: str | None) -> Markup | None:
    if gold is None:
        return None
    return element("p", "answer: ", element("b", element("bdi", shorten(gold, 200))), class_="answer")


def _with_text(gold: str | None, choices: Sequence[str]) -> str | None:
    """A letter with the text of its option, for options that are not listed apart from the prompt."""
    text = next((one_line(choice) for index, choice in enumerate(choices) if gold == _letter(index)), "")
    return f"{gold} ({text})" if text else gold


def _letter(index: int) -> str:
    return ascii_uppercase[index] if index < len(ascii_uppercase) else str(index + 1)
