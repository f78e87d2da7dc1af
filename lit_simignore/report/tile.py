"""One method on one sample: what it saw of the images, what it answered, and whether that changed anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_simignore.report.formats import clean, number, one_line, plural, shorten, tokens
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.media import MediaEntry, Picture
from lit_simignore.report.overlay import split_kept, token_picture
from lit_simignore.report.palette import Look, glyph
from lit_simignore.report.summary import MethodRow
from lit_simignore.types import Prediction

_OUTPUT_LIMIT = 1200


@dataclass(frozen=True, slots=True)
class Shown:
    """One image of a sample, ready to draw; ``picture`` is ``None`` with a ``problem`` to tell."""

    entry: MediaEntry
    picture: Picture | None
    problem: str = ""


def tile(
    row: MethodRow,
    look: Look,
    record: Prediction,
    base: Prediction | None,
    images: Sequence[Shown],
    column: int,
) -> Markup:
    """Draw a tile.

    Args:
        row: the method in the summary.
        look: its marker.
        record: its record of the sample.
        base: the baseline's record, to tell flips by.
        images: the sample's images.
        column: the method's place among the methods, by which the page shows and hides it.
    """
    flip = None if row.is_baseline else _flip(record, base)
    state = _state(record)
    head = element(
        "figcaption",
        element("span", glyph(look), element("bdi", row.name), class_="method"),
        element("span", flip, class_=f"flip {flip}") if flip else None,
    )
    return element(
        "figure",
        head,
        _pictures(row, record, images),
        element("p", _verdict(record, state), _tokens(record), class_="line"),
        _answer(record),
        class_="tile",
        data_m=column,
        data_state=state,
        data_flip=flip,
    )


def _state(record: Prediction) -> str:
    score = number(record.score)
    if record.error is not None:
        return "error"
    if score is None:
        return "unscored"
    return "right" if score >= 0.5 else "wrong"


def _flip(record: Prediction, base: Prediction | None) -> str | None:
    score, reference = number(record.score), None if base is None else number(base.score)
    if score is None or reference is None or score == reference:
        return None
    return "fixed" if score > reference else "broken"


_STATE_WORDS = {"right": "✓ right", "wrong": "✗ wrong", "error": "! error", "unscored": "no score"}


def _verdict(record: Prediction, state: str) -> Markup:
    score = number(record.score)
    partial = f" ({score:.2f})" if score is not None and 0 < score < 1 else ""
    return element("span", _STATE_WORDS[state] + partial, class_=f"state {state}")


def _tokens(record: Prediction) -> Markup | None:
    total, kept = number(record.num_visual_tokens), number(record.num_kept)
    if not total or kept is None:
        return None
    return element("span", f"{tokens(kept)} of {tokens(total)} tokens", class_="count")


def _answer(record: Prediction) -> Markup:
    if record.error is not None:
        return element("pre", shorten(clean(record.error), _OUTPUT_LIMIT), class_="output error", dir="auto")
    output = element("pre", shorten(clean(record.output), _OUTPUT_LIMIT) or " ", class_="output", dir="auto")
    if record.parsed is not None and str(record.parsed) == record.output.strip():
        return output
    parsed = "nothing" if record.parsed is None else f"“{shorten(one_line(record.parsed), 80)}”"
    return join([output, element("p", "read as ", element("bdi", parsed), class_="parsed")])


def _pictures(row: MethodRow, record: Prediction, images: Sequence[Shown]) -> Markup | None:
    if not images:
        return None
    shares, problem = _shares(record, [shown.entry for shown in images])
    drawn = []
    for index, shown in enumerate(images):
        if shown.picture is None:
            drawn.append(element("p", f"no picture: {shown.problem}", class_="missing"))
            continue
        kept = None if shares is None else shares[index]
        label = f"image {index + 1}" if kept is None else f"image {index + 1}, {plural(len(kept), 'token')} kept"
        drawn.append(token_picture(shown.picture, shown.entry, kept, f"{row.name}: {label}"))
    note = element("p", problem, class_="missing") if problem else None
    return element("div", *drawn, note, class_="pictures many" if len(images) > 1 else "pictures")


def _shares(record: Prediction, entries: Sequence[MediaEntry]) -> tuple[list[set[int]] | None, str]:
    """Kept tokens by image, or ``None`` with the reason where there is something to explain."""
    if record.kept is None:
        return None, ""
    total = number(record.num_visual_tokens)
    grids = sum(entry.num_tokens for entry in entries)
    kept = record.kept if isinstance(record.kept, list | tuple) else ()
    whole = [index for index in kept if isinstance(index, int) and not isinstance(index, bool)]
    shares = split_kept(whole, entries)
    if shares is None or (total and total != grids):
        return None, f"{grids} grid cells for {tokens(total)} visual tokens: kept tokens cannot be placed"
    return shares, ""
