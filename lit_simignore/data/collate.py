"""Open the images of a batch where a broken one can only hurt its own sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL.Image import Image
from torch.utils.data import Dataset

from lit_simignore.surgery.images import open_image
from lit_simignore.types import Sample

_ERROR_LENGTH = 500
"""Characters of an error message that a record keeps: some libraries print whole tensors."""


class Opened(NamedTuple):
    """One sample with its images in memory, or the reason why there are none."""

    sample: Sample
    images: tuple[Image, ...]
    error: str | None


class Batch:
    """Samples that are answered together.

    A plain class on purpose: Lightning looks into lists and dataclasses for tensors to move and convert, and would
    take the samples apart.

    Args:
        items: the samples, in the order of the batch.
    """

    __slots__ = ("errors", "images", "samples")

    def __init__(self, items: Sequence[Opened]) -> None:
        self.samples = tuple(item.sample for item in items)
        self.images = tuple(item.images for item in items)
        self.errors = tuple(item.error for item in items)

    def __len__(self) -> int:
        return len(self.samples)


class OpenedSamples(Dataset[Opened]):
    """The samples by position; images are opened on access, hence in the loader's worker if there is one."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Opened:
        return open_sample(self._samples[index])


def open_sample(sample: Sample) -> Opened:
    """Open the images of one sample; a failure is returned, not raised."""
    try:
        return Opened(sample, tuple(open_image(ref) for ref in sample.images), None)
    # A picture may be drawn by any function, so anything may be wrong with it; the record will say what.
    except Exception as error:
        return Opened(sample, (), one_line(error))


def one_line(error: BaseException) -> str:
    """What happened, as one line for a record: the message of a user error, else with the kind of error before it."""
    text = " ".join(str(error).split())[:_ERROR_LENGTH]
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
