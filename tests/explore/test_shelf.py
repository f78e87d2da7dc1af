"""Images that the page can ask about."""

from __future__ import annotations

import pytest
from PIL import Image

from lit_simignore.explore import shelf as module
from lit_simignore.explore.shelf import Shelf
from lit_simignore.types import UserError


class CropsTheCentre:
    """An image processor that shows the model the middle square only."""

    class image_processor:  # noqa: N801 - stands for an instance
        do_center_crop = True
        size = {"shortest_edge": 24}
        crop_size = {"height": 24, "width": 24}


def test_the_picture_is_what_reaches_the_model_and_the_image_is_whole() -> None:
    image = Image.new("RGB", (300, 100), "red")
    held = Shelf(CropsTheCentre()).add(image)
    assert held.image.size == (300, 100)
    assert (held.picture.width, held.picture.height) == (100, 100)


def test_examples_stay_and_loaded_images_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_IMAGES", 2)
    shelf = Shelf(None)
    shelf.keep("scene-1", Image.new("RGB", (8, 8)))
    first, second = shelf.add(Image.new("RGB", (8, 8))), shelf.add(Image.new("RGB", (8, 8)))
    assert shelf.get(first.key) is first  # used again: now the other one is the oldest
    shelf.add(Image.new("RGB", (8, 8)))
    assert shelf.get(first.key) is first and shelf.get("scene-1")
    with pytest.raises(UserError, match="an image is needed: load one"):
        shelf.get(second.key)


def test_large_images_make_room_by_their_pixels_but_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PIXELS", 100)
    shelf = Shelf(None)
    small, large = shelf.add(Image.new("RGB", (8, 8))), shelf.add(Image.new("RGB", (20, 20)))
    assert shelf.get(large.key) is large
    with pytest.raises(UserError):
        shelf.get(small.key)


def test_keys_of_loaded_images_cannot_be_guessed() -> None:
    shelf, image = Shelf(None), Image.new("RGB", (8, 8))
    keys = {shelf.add(image).key for _ in range(5)}
    assert len(keys) == 5 and all(len(key) > 25 for key in keys)
