"""The visual tokens of a poorer image: pixels are noted where they are encoded, changed by sample, encoded again.

``generate`` encodes images before the model's forward and forgets their pixels, so they are noted at the encoder.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lit_simignore.interventions.base import LogitsIntervention
from lit_simignore.surgery.refusals import VISION_INPUTS
from lit_simignore.types import UserError

ENCODE = "get_image_features"

_Noted: TypeAlias = "tuple[dict[str, Any], list[int]]"


class PixelNotes:
    """What ``get_image_features`` was last asked in this thread, while installed.

    Args:
        encoder: the module that has it; ``generate`` and the model's forward ask the same one.
        listens: whether a call is the first run's.
    """

    def __init__(self, encoder: nn.Module, listens: Callable[[], bool]) -> None:
        self.encoder, self._listens = encoder, listens
        self.encode: Callable[..., Any] | None = None
        self._noted: ContextVar[_Noted | None] = ContextVar("lit_simignore_pixels", default=None)

    def install(self) -> PixelNotes:
        """Stand in front of the encoder's method; undone by :meth:`remove`."""
        encode: Callable[..., Any] | None = getattr(self.encoder, ENCODE, None)
        if encode is None:
            raise UserError(f"{type(self.encoder).__name__} does not encode images apart; no second image can be made")
        self.encode = encode

        @functools.wraps(encode)
        def noting(*args: Any, **kwargs: Any) -> Any:
            found = encode(*args, **kwargs)
            if self._listens():
                bound = inspect.signature(encode).bind(*args, **kwargs).arguments
                given = {**bound.pop("kwargs", {}), **bound}
                self._noted.set((given, [len(rows) for rows in found.pooler_output]))
            return found

        setattr(self.encoder, ENCODE, noting)
        return self

    def remove(self) -> None:
        """Give the encoder its own method back."""
        vars(self.encoder).pop(ENCODE, None)
        self._noted.set(None)

    def take(self) -> _Noted | None:
        """Arguments of the last call, and the visual tokens of each of its results."""
        noted = self._noted.get()
        self._noted.set(None)
        return noted


def noisy_features(
    part: LogitsIntervention, notes: PixelNotes, counts: Sequence[int], keys: Sequence[str], *, images_per_row: bool
) -> Any:
    """What the encoder makes of every sample's changed pixels.

    Args:
        part: changes pixels.
        notes: what was encoded for this prefill.
        counts: visual tokens of every row of the batch, beams included.
        keys: identity of every row.
        images_per_row: whether a row of pixel values holds all images of a sample.

    Raises:
        UserError: the images came some other way than as pixels, or cannot be told apart by sample.
    """
    noted, name = notes.take(), type(part).__name__
    if noted is None:
        raise UserError(f"{name} encodes the image a second time; give the images as pixel_values to the same call")
    given, entries = noted
    made, repeats = sum(entries), 0
    if made and sum(counts) % made == 0:
        repeats = sum(counts) // made
    if not repeats or len(counts) % repeats:
        raise UserError(f"{name} cannot match {made} encoded visual tokens with the {sum(counts)} of the prompts")
    main = next(found for found in VISION_INPUTS if found in given)
    samples = counts[::repeats]
    images = _images_per_sample(entries, samples)
    rows = [1] * len(samples) if images_per_row else _rows_per_sample(len(given[main]), entries, images, samples)
    if images is None or rows is None or sum(rows) != len(given[main]):
        raise UserError(f"{name} cannot tell which pixels belong to which sample of this model; use a batch of one")
    pieces = zip(given[main].split(rows), keys[::repeats], strict=True)
    again = {**given, main: torch.cat([_changed(part, pixels, key, images_per_row) for pixels, key in pieces])}
    # Beams repeat every sample. Encoding its rows again is dearer than repeating features, and alike for all families.
    shares = {len(given[main]): rows, len(entries): images}
    if repeats > 1:
        again = {field: _repeated(value, shares, repeats) for field, value in again.items()}
    assert notes.encode is not None
    return notes.encode(**{**again, "return_dict": True})


def _changed(part: LogitsIntervention, pixels: Tensor, key: str, images_per_row: bool) -> Tensor:
    """One sample's pixels; a row that holds all of its images is filled up with black ones, which stay black."""
    if not images_per_row:
        return part.second_pixels(pixels, key) if len(pixels) else pixels
    real = pixels[0].flatten(1).any(dim=1)
    changed = pixels.clone()
    if bool(real.any()):
        changed[0, real] = part.second_pixels(pixels[0, real], key)
    return changed


def _images_per_sample(entries: Sequence[int], counts: Sequence[int]) -> list[int] | None:
    """How many of the encoder's results, with ``entries`` tokens each, make up each sample's ``counts`` tokens."""
    left, images = list(entries), []
    for count in counts:
        taken = 0
        while count > 0 and taken < len(left):
            count -= left[taken]
            taken += 1
        if count:
            return None
        images.append(taken)
        left = left[taken:]
    return images


def _rows_per_sample(
    num_rows: int, entries: Sequence[int], images: list[int] | None, counts: Sequence[int]
) -> list[int] | None:
    """How many rows of pixel values each sample has."""
    if num_rows == len(entries):
        return images
    if all(count * num_rows % sum(counts) == 0 for count in counts):  # patches, as many for every visual token
        return [count * num_rows // sum(counts) for count in counts]
    return None


def _repeated(value: Any, shares: dict[int, list[int]], repeats: int) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or len(value) not in shares:
        return value
    return torch.cat([rows for rows in value.split(shares[len(value)]) for _ in range(repeats)])
