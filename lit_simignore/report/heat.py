"""Maps over visual tokens laid over a grey picture: one small image per map holds all layers, one above the other."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_simignore.report.markup import Markup, element
from lit_simignore.report.media import Picture
from lit_simignore.report.overlay import outline_path

_RAMP = ((0.0, (10, 6, 40)), (0.25, (92, 20, 110)), (0.5, (187, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))
"""Lightness rises all the way, so that a print in grey, and any eye, sees the same order."""
_LEAST, _MOST = 0.25, 0.88


@dataclass(frozen=True, slots=True)
class Sprite:
    """All layers of one map on one image. ``key`` names it on the page."""

    key: str
    uri: str
    rows: int
    cols: int
    layers: int


def sprite(maps: np.ndarray) -> Sprite:
    """Colour ``(N, rows, cols)`` maps, at least 0, each layer by its own maximum; a layer of zeros stays dark."""
    layers, rows, cols = maps.shape
    data = _png(_coloured(np.nan_to_num(maps)).reshape(layers * rows, cols, 4))
    uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    return Sprite(f"h{hashlib.sha256(data).hexdigest()[:12]}", uri, rows, cols, layers)


def _coloured(maps: np.ndarray) -> np.ndarray:
    top = maps.max(axis=(1, 2), keepdims=True)
    scaled = np.clip(maps / np.where(top > 0, top, 1), 0, 1)
    stops = [stop for stop, _ in _RAMP]
    channels = [np.interp(scaled, stops, [colour[channel] for _, colour in _RAMP]) for channel in range(3)]
    alpha = 255 * (_LEAST + (_MOST - _LEAST) * scaled)
    return np.stack([*channels, alpha], axis=-1).round().astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sprite_definition(found: Sprite) -> Markup:
    """The image, once per page."""
    return element(
        "image", id=found.key, href=found.uri, width=found.cols, height=found.rows * found.layers,
        preserveAspectRatio="none", class_="pixelated",
    )  # fmt: skip


def heat_picture(picture: Picture, found: Sprite, layer: int, label: str, needed: np.ndarray | None = None) -> Markup:
    """One picture under the map of one layer; the script moves to other layers.

    Args:
        picture: the image, defined once per page.
        found: the map.
        layer: index of the layer that is shown at first.
        label: what a screen reader says.
        needed: ``(rows * cols,)`` share of every token that the answer needs; outlined from a half on.
    """
    cols, height = found.cols, found.cols * picture.height / picture.width
    window = element(
        "svg", element("use", href=f"#{found.key}"), class_="heat", width=cols, height=f"{height:.6g}",
        viewBox=f"0 {layer * found.rows} {cols} {found.rows}", preserveAspectRatio="none", data_rows=found.rows,
        data_cols=cols,
    )  # fmt: skip
    return _framed(picture, found.rows, cols, label, window, needed, grey=True)


def plain_picture(picture: Picture, rows: int, cols: int, label: str, needed: np.ndarray | None) -> Markup:
    """The picture itself, with what the answer needs outlined."""
    return _framed(picture, rows, cols, label, None, needed, grey=False)


def _framed(
    picture: Picture, rows: int, cols: int, label: str, over: Markup | None, needed: np.ndarray | None, *, grey: bool
) -> Markup:
    height = cols * picture.height / picture.width
    base = element(
        "use", href=f"#i{picture.key}", transform=f"scale({cols / picture.width:.6g})", class_="grey" if grey else None
    )
    lines = None if needed is None else needed_outline(needed, rows, cols, height / rows)
    css = "tokens pixels" if picture.width <= 160 else "tokens"
    return element(
        "svg", base, over, lines, viewBox=f"0 0 {cols} {height:.6g}", class_=css, role="img", aria_label=label
    )


def needed_outline(needed: np.ndarray, rows: int, cols: int, stretch: float) -> Markup | None:
    """A white line on a dark one around the tokens that the answer needs."""
    cells = np.flatnonzero(needed >= 0.5).tolist()
    if not cells:
        return None
    path, move = outline_path(cells, rows, cols), f"scale(1 {stretch:.6g})"
    return element(
        "g",
        element("path", d=path, class_="needed-edge", fill="none", transform=move),
        element("path", d=path, class_="needed", fill="none", transform=move),
    )


def colour_bar() -> Markup:
    """What the colours mean."""
    stops = [
        element("stop", offset=f"{100 * stop:g}%", stop_color="rgb({},{},{})".format(*colour)) for stop, colour in _RAMP
    ]
    gradient = element("defs", element("linearGradient", *stops, id="heat-ramp"))
    bar = element("rect", width=120, height=10, fill="url(#heat-ramp)")
    size = {"width": 120, "height": 10, "viewBox": "0 0 120 10"}
    return element("svg", gradient, bar, **size, class_="ramp", role="img", aria_label="colours from dark to bright")
