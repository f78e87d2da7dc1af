"""The images that the page can ask about: examples stay, loaded ones make room for newer ones."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image

from lit_simignore.engine.thumbnails import seen_part
from lit_simignore.report.media import Picture, embedded
from lit_simignore.types import UserError

MAX_PIXELS = 50_000_000
"""Of one image."""

_MOST_PIXELS = 100_000_000
_MOST_IMAGES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """One image.

    Args:
        key: how the page calls it; that of a loaded image cannot be guessed.
        image: upright, RGB, as large as it came.
        picture: what reaches the model of it, small, for the page.
    """

    key: str
    image: Image.Image
    picture: Picture


class Shelf:
    """Images by key, in memory only.

    Args:
        processor: the model's; the part of an image that it cuts away is not shown.
    """

    def __init__(self, processor: object) -> None:
        self._processor = processor
        self._examples: dict[str, Held] = {}
        self._loaded: OrderedDict[str, Held] = OrderedDict()

    def keep(self, key: str, image: Image.Image) -> Held:
        """Hold an example for good."""
        self._examples[key] = self._held(key, image)
        return self._examples[key]

    def add(self, image: Image.Image) -> Held:
        """Hold a loaded image until newer ones need its place."""
        held = self._held(f"image-{secrets.token_urlsafe(16)}", image)
        self._loaded[held.key] = held
        while len(self._loaded) > _MOST_IMAGES or (len(self._loaded) > 1 and self._pixels() > _MOST_PIXELS):
            self._loaded.popitem(last=False)
        return held

    def get(self, key: str) -> Held:
        """The image called ``key``.

        Raises:
            UserError: there is none, or it had to make room.
        """
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        if key not in self._examples:
            raise UserError(
                "an image is needed: load one, or take one of the examples (older ones make room for newer)"
            )
        return self._examples[key]

    def _held(self, key: str, image: Image.Image) -> Held:
        return Held(key, image, embedded(seen_part(image, self._processor).copy()))

    def _pixels(self) -> int:
        return sum(held.image.width * held.image.height for held in self._loaded.values())
