"""A broken image is the error of its own sample."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lit_simignore.data.collate import Batch, OpenedSamples, one_line, open_sample
from lit_simignore.types import Role, Sample, Segment, UserError


def sample(name: str, *images: object) -> Sample:
    return Sample(name, (Segment("?", Role.QUESTION),), images=images)  # type: ignore[arg-type]


def drawing_that_fails() -> Image.Image:
    raise ZeroDivisionError("no shapes")


def test_a_broken_image_leaves_the_others_of_the_batch_alone(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (4, 3)).save(good)
    bad.write_bytes(good.read_bytes()[:20])
    dataset = OpenedSamples([sample("a", good), sample("b", good, bad), sample("c"), sample("d", drawing_that_fails)])
    batch = Batch([dataset[i] for i in range(len(dataset))])
    assert len(batch) == 4
    assert [len(images) for images in batch.images] == [1, 0, 0, 0]
    assert batch.errors[0] is None
    assert batch.errors[2] is None
    assert str(bad) in str(batch.errors[1])
    assert batch.errors[3] == "ZeroDivisionError: no shapes"


def test_a_missing_file_says_which_one(tmp_path: Path) -> None:
    assert open_sample(sample("a", tmp_path / "gone.png")).error == f"image file not found: {tmp_path / 'gone.png'}"


def test_an_error_becomes_one_short_line() -> None:
    assert one_line(UserError("expected a\n   b")) == "expected a b"
    assert one_line(RuntimeError()) == "RuntimeError"
    assert len(one_line(RuntimeError("x" * 10_000))) < 600
