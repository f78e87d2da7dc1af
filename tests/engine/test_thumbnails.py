"""Pictures show what the model saw, so that kept tokens can be drawn over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_simignore.engine.thumbnails import MAX_SIDE, seen_part, write_thumbnails
from lit_simignore.metrics.records import Run
from lit_simignore.types import Prediction, Role, Sample, Segment
from tests.tiny_models import tiny_processor


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(400, 200), (200, 500), (300, 300), (90, 100)])
def test_a_centre_crop_is_the_one_that_the_image_processor_makes(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    processor = LlavaProcessor(images, tiny_processor().tokenizer, patch_size=8)
    picture = gradient(*size)
    pixels = images(picture, return_tensors="np")["pixel_values"][0]
    mean, std = (np.array(values)[:, None, None] for values in (images.image_mean, images.image_std))
    seen = (pixels * std + mean).transpose(1, 2, 0)
    ours = np.asarray(seen_part(picture, processor).resize((64, 64), Image.Resampling.BICUBIC)) / 255
    assert np.abs(ours - seen).max() < 0.04


def test_without_a_crop_all_of_it_is_shown() -> None:
    picture = gradient(40, 20)
    assert seen_part(picture, tiny_processor()) is picture
    assert seen_part(picture, object()) is picture


def sample(name: str, *pictures: object) -> Sample:
    return Sample(name, (Segment("?", Role.QUESTION),), images=pictures)  # type: ignore[arg-type]


def test_pictures_are_small_and_have_safe_names_and_grids(tmp_path: Path) -> None:
    def broken() -> Image.Image:
        raise OSError("gone")

    samples = [sample("../a b/<c>", gradient(2000, 500), gradient(10, 10)), sample("a", broken), sample("text")]
    run = Run()
    run.add(Prediction(samples[0].sample_id, "baseline", "", "?", None, extra={"grids": [[6, 24], [2, 2]]}))
    write_thumbnails(tmp_path, samples, run, tiny_processor())
    index = json.loads((tmp_path / "media" / "index.json").read_text())
    assert list(index) == ["../a b/<c>", "a", "text"] and index["a"] == index["text"] == []
    first, second = index["../a b/<c>"]
    assert (first["rows"], first["cols"], second["rows"], second["cols"]) == (6, 24, 2, 2)
    for entry, size in ((first, (MAX_SIDE, MAX_SIDE // 4)), (second, (10, 10))):
        path = (tmp_path / entry["file"]).resolve()
        assert path.parent == (tmp_path / "media").resolve()
        assert Image.open(path).size == size
        assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_sample_that_was_never_answered_has_a_picture_without_grid(tmp_path: Path) -> None:
    write_thumbnails(tmp_path, [sample("a", gradient(8, 8))], Run(), tiny_processor())
    (entry,) = json.loads((tmp_path / "media" / "index.json").read_text())["a"]
    assert (entry["rows"], entry["cols"]) == (0, 0)


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    write_thumbnails(tmp_path, [], Run(), tiny_processor())
    assert not list(tmp_path.iterdir())
