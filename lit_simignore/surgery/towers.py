"""What a family says of its vision tower: which patches make a visual token, where attention is, what it can be shown.

A *picture* is one thing that the tower encodes by itself: an image, a crop or a tile of it. A tower gives rows of
patches; the rest of the model makes visual tokens of them, one of each or one of several, and may put further tokens
in between that show nothing (ends of rows).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.attention import Heads
from lit_simignore.types import UserError

READS = frozenset({Need.VISION_ATTENTION, Need.VISION_KEYS, Need.VISION_HIDDEN, Need.PROJECTOR})
"""What every tower described here lets rules read."""

READS_CLASS_TOKEN = READS | {Need.VISION_LAST_QK}
"""What one with a class token, and one patch per visual token, lets them read."""

RESIZES = frozenset({Need.RESIZED_IMAGE})
"""What a tower of one fixed resolution offers whose positions can be interpolated."""

VISION_OFFERS = READS_CLASS_TOKEN | RESIZES
"""Everything that any tower offers."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the visual tokens of one call come from, in prompt order; -1 for tokens that show nothing.

    Args:
        patches: ``(N, m)`` int64, rows of the tower (class tokens not counted) that a token is made of, in the order
            in which the projector takes them.
        picture: ``(N,)`` int64, number of the picture.
        place: ``(N,)`` int64, row-major place among the visual tokens of the whole picture.
    """

    patches: Tensor
    picture: Tensor
    place: Tensor


@dataclass(slots=True, eq=False)
class Seen:
    """One pass of the tower.

    Args:
        arguments: of the tower's forward, by name.
        hidden: ``(M, L, C)``, or ``(R, C)`` for pictures of any size: the rows that visual tokens are made of, class
            tokens included; keeps gradients.
        heads: queries and keys, in the order of the calls, by the name of the layer: ``feature`` or ``last``.
        packed: ``(N,)`` float per image, patch rows in the order of the prompt, where the model stitches tiles.
        finished: True once the tower returned: a recomputation in the backward pass is not listened to.
    """

    arguments: Mapping[str, Any]
    hidden: Tensor | None = None
    heads: dict[str, list[Heads]] = field(default_factory=dict)
    packed: list[Tensor] | None = None
    finished: bool = False


@dataclass(frozen=True, eq=False)
class VisionTower:
    """A tower that encodes every picture at the same size.

    Args:
        module: the tower.
        attention: the attention module of the layer that made the rows.
        projector: maps ``(n, m * C)`` rows (``(n, C)`` where patches are averaged) to visual tokens, each by itself.
        grid: rows and columns of visual tokens per picture.
        block: ``(T, m)`` int64, patches of every token of a picture, as in :class:`Layout`.
        feature_layer: index into the output's ``hidden_states``; ``None`` for its ``last_hidden_state``.
        class_token: whether row 0 of every picture is a class token.
        last_attention: the attention module of the last layer, where that is offered.
        averages: whether a token is made of the mean of its patches, and not of all of them side by side.
        resize: how the tower is told that pictures are smaller: ``argument``, ``mask`` or ``itself``; empty: it cannot.
    """

    module: nn.Module
    attention: nn.Module
    projector: Callable[[Tensor], Tensor]
    grid: tuple[int, int]
    block: Tensor
    feature_layer: int | None = None
    class_token: bool = False
    last_attention: nn.Module | None = None
    averages: bool = False
    resize: str = ""

    @property
    def offers(self) -> frozenset[Need]:
        """What rules may ask of it."""
        reads = READS if self.last_attention is None else READS_CLASS_TOKEN
        return reads | RESIZES if self.resize else reads

    def install(self, note: Callable[[Any], None], seen: Callable[[], Seen | None]) -> None:
        """Register what the layout needs beyond the tower's own hooks. Nothing here.

        Args:
            note: receives every handle (with ``remove()``).
            seen: the pass that is under way.
        """

    def rows(self, output: Any) -> Tensor:
        """The rows that visual tokens are made of, from the tower's output."""
        chosen: Tensor = (
            output.last_hidden_state if self.feature_layer is None else output.hidden_states[self.feature_layer]
        )
        return chosen

    def sizes(self, seen: Seen) -> list[int]:
        """Rows of every picture, class tokens not counted."""
        assert seen.hidden is not None
        return [seen.hidden.shape[1] - self.class_token] * seen.hidden.shape[0]

    def layout(self, seen: Seen) -> Layout:
        """Pictures one after the other, each complete."""
        sizes, (tokens, _) = self.sizes(seen), self.block.shape
        first = torch.arange(len(sizes))[:, None, None] * (sizes[0] if sizes else 0)
        picture = torch.arange(len(sizes)).repeat_interleave(tokens)
        return Layout((first + self.block).flatten(0, 1), picture, torch.arange(tokens).repeat(len(sizes)))


@dataclass(frozen=True, eq=False)
class TiledTower(VisionTower):
    """A tower whose tiles the model stitches together, cuts padding out of, and ends rows of.

    Which patch comes where is asked of the model's own function: it is called once more with numbers for rows.

    Args:
        owner: the module that has ``pack_image_features``; given all the same, the default only orders the fields.
    """

    owner: nn.Module | None = None

    def install(self, note: Callable[[Any], None], seen: Callable[[], Seen | None]) -> None:
        assert self.owner is not None

        def listen(images: list[Tensor], again: Callable[[list[Tensor]], Any]) -> None:
            current = seen()
            if current is None:
                return
            sizes = [image.shape[0] * image.shape[1] for image in images]
            numbers = torch.arange(sum(sizes), dtype=torch.float64).split(sizes)
            shaped = [part.view(*image.shape[:2], 1) for part, image in zip(numbers, images, strict=True)]
            current.packed = [rows[:, 0] for rows in again(shaped)[0]]

        note(_Overheard(self.owner, listen))

    def layout(self, seen: Seen) -> Layout:
        """As the model packs its tiles.

        Raises:
            UserError: the model interpolated between patches, so that tokens belong to none.
        """
        if seen.packed is None:
            raise UserError("the tiles of this call were put together elsewhere; give pixel_values to the same call")
        rows = torch.cat(seen.packed)
        if not torch.equal(rows, rows.round()):
            raise UserError(
                "an image has more tiles than the model shows its decoder, which interpolates between them: no visual "
                "token belongs to one patch; make the image smaller, or take a rule that reads no vision features"
            )
        index = rows.long()
        size, alive = self.block.shape[0], index >= 0
        picture, place = (index // size).masked_fill(~alive, -1), (index % size).masked_fill(~alive, -1)
        return Layout(index[:, None], picture, place)


@dataclass(frozen=True, eq=False)
class StreamTower(VisionTower):
    """A tower of any resolution: the patches of all pictures lie in one stream, every ``m`` of them a visual token.

    Args:
        order: places of the visual tokens in the stream, from the pictures' sizes ``(M, 3)``; ``None`` if in order.
    """

    order: Callable[[Tensor], Tensor] | None = None

    def sizes(self, seen: Seen) -> list[int]:
        return [int(size) for size in seen.arguments["grid_thw"].prod(dim=-1).tolist()]

    def layout(self, seen: Seen) -> Layout:
        """Every token's patches lie next to each other; windows are put back in order."""
        merged = self.block.shape[1]
        counts = torch.tensor(self.sizes(seen)) // merged
        total = int(counts.sum())
        place = torch.arange(total) if self.order is None else self.order(seen.arguments["grid_thw"]).cpu().argsort()
        patches = place[:, None] * merged + torch.arange(merged)
        numbers = torch.cat([torch.arange(int(count)) for count in counts])
        return Layout(patches, torch.arange(len(counts)).repeat_interleave(counts), numbers)


def row_major(rows: int, columns: int, side: int = 1) -> Tensor:
    """``(rows * columns, side * side)`` int64: patches of every token where a token is a square of patches."""
    patches = torch.arange(rows * columns * side * side).view(rows, side, columns, side)
    return patches.transpose(1, 2).reshape(rows * columns, side * side)


def by_module(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A projector that is a module. Rows go where it is and keep their type: quantised weights are no numbers."""
    return lambda rows: module(rows.to(next(module.parameters()).device))


class _Overheard:
    """A method of one module object that is listened to until :meth:`remove`, like the handles of hooks.

    ``generate`` encodes images before any module's forward is called, and forgets how large they were; what stitches
    tiles together is no module, so no hook sees it.
    """

    name = "pack_image_features"

    def __init__(self, owner: nn.Module, listen: Callable[[list[Tensor], Callable[[list[Tensor]], Any]], None]) -> None:
        self._owner, self._listen = owner, listen
        self._method = getattr(owner, self.name)
        self._signature = inspect.signature(self._method)
        vars(owner)[self.name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def again(images: list[Tensor]) -> Any:
            given = self._signature.bind(*args, **kwargs)
            given.arguments["image_features"] = images
            newline = given.arguments.get("image_newline")
            if newline is not None:
                given.arguments["image_newline"] = torch.full((1,), -1.0, dtype=torch.float64)
            return self._method(*given.args, **given.kwargs)

        images = self._signature.bind(*args, **kwargs).arguments["image_features"]
        self._listen(list(images), again)
        return self._method(*args, **kwargs)

    def remove(self) -> None:
        """Give the module its own method back."""
        del vars(self._owner)[self.name]
