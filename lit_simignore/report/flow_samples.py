"""The samples of an analysis one by one: maps of every layer over the picture, clusters, and what methods kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lit_simignore.report.cluster_picture import ablation_table, cluster_picture
from lit_simignore.report.flow_folder import FlowSample, FlowView
from lit_simignore.report.folder import RunFolder
from lit_simignore.report.formats import clean, number, one_line, plural, shorten
from lit_simignore.report.heat import Sprite, heat_picture, plain_picture, sprite, sprite_definition
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.media import MediaEntry, Picture
from lit_simignore.report.overlay import split_kept, token_picture
from lit_simignore.report.palette import glyph, looks
from lit_simignore.report.summary import BASELINE
from lit_simignore.types import Prediction, UserError

MAP_TITLES = {"cam": "LLaVA-CAM", "attention": "Attention", "saliency": "Saliency"}
_MAP_NOTES = {
    "cam": "feature × gradient of the answer",
    "attention": "mean over heads",
    "saliency": "|attention × gradient|",
}
_TEXT_LIMIT = 400


@dataclass(slots=True)
class FlowCards:
    """Cards of an analysis, and what the page must define for them.

    Args:
        cards: one per sample.
        sprites: maps, each once.
        pictures: images that the cards refer to, by key.
        columns: widths of grids with a hatching.
    """

    cards: list[Markup] = field(default_factory=list)
    sprites: dict[str, Sprite] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    columns: set[int] = field(default_factory=set)

    def definitions(self) -> Markup:
        """The hidden element with all maps."""
        maps = [sprite_definition(each) for each in self.sprites.values()]
        return element("svg", element("defs", *maps), class_="offstage", width=0, height=0, aria_hidden="true")


def build_cards(folder: RunFolder, view: FlowView, start: int) -> FlowCards:
    """Draw a card per sample.

    Args:
        folder: the run.
        view: its analysis.
        start: index of the layer that is shown at first.
    """
    made = FlowCards()
    for position, sample in enumerate(view.samples):
        made.cards.append(_Card(folder, view, sample, made, min(start, len(sample.layers) - 1)).draw(position))
    return made


class _Card:
    def __init__(self, folder: RunFolder, view: FlowView, sample: FlowSample, made: FlowCards, start: int) -> None:
        self.folder, self.view, self.sample, self.made, self.start = folder, view, sample, made, start
        self.records = folder.samples.get(sample.sample_id, {})
        self.images = self._images()

    def _images(self) -> list[tuple[MediaEntry, Picture]]:
        """The images whose grids are those of the maps; none if they do not fit."""
        entries = self.folder.media.index.get(self.sample.sample_id, ())
        if [(entry.rows, entry.cols) for entry in entries] != list(self.sample.grids) or not self.sample.grids:
            return []
        try:
            found = [(entry, self.folder.media.picture(entry)) for entry in entries]
        except UserError:
            return []
        self.made.pictures.update({picture.key: picture for _, picture in found})
        return found

    def draw(self, position: int) -> Markup:
        first = next(iter(self.records.values()), None)
        below = element("div", self._clusters(), self._kept(), class_="below")
        heading = element(
            "h3",
            element("span", f"#{position + 1}", class_="position"),
            element("bdi", shorten(one_line(self.sample.sample_id), 80)),
            element("span", shorten(one_line(first.kind), 60), class_="chip")
            if first is not None and first.kind
            else None,
        )
        return element(
            "article", heading, self._question(), self._panels(), below, class_="flow-card"
        )

    def _question(self) -> Markup | None:
        base = self.records.get(BASELINE) or next(iter(self.records.values()), None)
        if base is None:
            return None
        score = number(base.score)
        right = None if score is None else ("✓ right" if score >= 0.5 else "✗ wrong")
        gold = f"; the answer is {shorten(one_line(base.answer), 80)}" if base.answer is not None else ""
        said = shorten(one_line(clean(base.output)), 120) or "(nothing)"
        return element(
            "p",
            element("bdi", shorten(one_line(base.prompt), _TEXT_LIMIT)),
            element(
                "span", " → ", element("b", element("bdi", said)), f" {right}" if right else "", gold, class_="answer"
            ),
            class_="asked",
        )

    # -- maps

    def _panels(self) -> Markup:
        if not self.images:
            why = "its visual tokens form no grid" if not self.sample.grids else "the picture is not in the run folder"
            return element(
                "p", f"No maps over the picture: {why}. The numbers are in flow/{self.sample.file}.", class_="missing"
            )
        return element("div", self._plain(), *(self._map(name) for name in self.sample.maps), class_="panels")

    def _parts(self, values: np.ndarray) -> list[np.ndarray]:
        """``(..., I)`` cut into images."""
        ends = np.cumsum([entry.num_tokens for entry, _ in self.images])[:-1]
        return np.split(values, ends, axis=-1)

    def _needed(self) -> list[np.ndarray | None]:
        needed = self.sample.needed
        return [None] * len(self.images) if needed is None else list(self._parts(needed))

    def _plain(self) -> Markup:
        drawn = [
            plain_picture(picture, entry.rows, entry.cols, "the picture", needed)
            for (entry, picture), needed in zip(self.images, self._needed(), strict=True)
        ]
        note = "outlined: what the answer needs" if self.sample.needed is not None else ""
        return _panel("Picture", note, drawn, [])

    def _map(self, name: str) -> Markup:
        maps, drawn = self.sample.maps[name], []
        for (entry, picture), part, needed in zip(self.images, self._parts(maps), self._needed(), strict=True):
            made = sprite(part.reshape(len(part), entry.rows, entry.cols))
            self.made.sprites[made.key] = made
            drawn.append(heat_picture(picture, made, self.start, f"{MAP_TITLES[name]} over the picture", needed))
        lines = [self._line(name, index) for index in range(len(maps))]
        return _panel(MAP_TITLES[name], _MAP_NOTES[name], drawn, self._by_layer(lines))

    def _line(self, name: str, index: int) -> str:
        """One layer of a map in words."""
        values = self.sample.maps[name][index]
        if not np.any(values > 0):
            return "nothing leads from here to the answer" if name == "cam" else "no heat in this layer"
        said = []
        if name == "attention":
            said.append(f"image gets {100 * self.sample.image_share[index]:.0f}%")
        if self.sample.needed is not None:
            on = float(values @ self.sample.needed / values.sum())
            said.append(
                f"{100 * on:.0f}% of the heat on what is needed (even: {100 * float(self.sample.needed.mean()):.0f}%)"
            )
        return "; ".join(said)

    def _by_layer(self, lines: Sequence[str]) -> list[Markup]:
        return [
            element("p", line, class_="note at-layer", data_at=index, hidden=index != self.start)
            for index, line in enumerate(lines)
        ]

    # -- clusters and methods

    def _clusters(self) -> Markup | None:
        if self.sample.clusters is None or not self.images:
            return None
        drawn = [
            cluster_picture(picture, labels, entry.rows, entry.cols, "clusters of visual tokens")
            for (entry, picture), labels in zip(self.images, self._parts(self.sample.clusters), strict=True)
        ]
        table = element("div", element("h4", "Answers without a cluster"), ablation_table(self.sample.ablation))
        return element(
            "div", _panel("Token clusters", "K-means of the visual tokens", drawn, []), table, class_="clusters"
        )

    def _kept(self) -> Markup | None:
        rows = [row for row in self.folder.view.rows if row.key in self.records and not row.is_baseline]
        if self.view.methods:
            rows = [row for row in rows if row.key in self.view.methods]
        if not rows or not self.images:
            return None
        look_of = looks(row.name for row in self.folder.view.rows)
        tiles = []
        for row in rows:
            head = element(
                "figcaption", element("span", glyph(look_of[row.name]), element("bdi", row.name), class_="method")
            )
            tiles.append(
                element(
                    "figure", head, *self._tokens(self.records[row.key]), _said(self.records[row.key]), class_="kept"
                )
            )
        title = element("h4", "Visual tokens that methods keep (the others hatched), and their answers")
        return element("div", title, element("div", *tiles, class_="kept-row"), class_="kept-box")

    def _tokens(self, record: Prediction) -> list[Markup]:
        entries = [entry for entry, _ in self.images]
        kept = record.kept if isinstance(record.kept, list | tuple) else None
        whole = [index for index in kept or () if isinstance(index, int) and not isinstance(index, bool)]
        shares = None if kept is None else split_kept(whole, entries)
        if shares is None:
            return [element("p", "kept tokens are not known", class_="missing")]
        self.made.columns.update(entry.cols for entry in entries if entry.cols)
        return [
            token_picture(picture, entry, share, plural(len(share), "token") + " kept")
            for (entry, picture), share in zip(self.images, shares, strict=True)
        ]


def _said(record: Prediction) -> Markup:
    text = record.error if record.error is not None else record.output
    score = number(record.score)
    right = "" if score is None else ("✓ " if score >= 0.5 else "✗ ")
    return element("p", right, element("bdi", shorten(one_line(clean(text)), 60) or "(nothing)"), class_="said")


def _panel(title: str, note: str, drawn: Sequence[Markup], lines: Sequence[Markup]) -> Markup:
    heading = element("figcaption", element("span", title), element("small", note) if note else None)
    return element("figure", heading, *drawn, *lines, class_="panel")
