"""What a prompt shows of its images: stretches of adjacent placeholders, their neighbours, their rotary coordinates.

Families read the grids of images off these and off nothing else: ``generate`` encodes images, and forgets their sizes,
before the model's forward is called, so neither pixels nor sizes can be counted on where pruning happens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Visual tokens that stand next to each other in one prompt.

    Args:
        length: how many.
        before: id of the token in front of them; ``None`` if there is none or ids are not known.
        after: id of the token behind them, likewise.
        rows: rotary height coordinates of the tokens; empty in models with one position per token.
        cols: width coordinates, likewise.
    """

    length: int
    before: int | None = None
    after: int | None = None
    rows: tuple[int, ...] = ()
    cols: tuple[int, ...] = ()


def visual_runs(visual: Tensor, ids: Tensor | None, positions: Tensor | None) -> list[tuple[Run, ...]]:
    """The runs of every prompt of a batch, in prompt order.

    Args:
        visual: ``(B, N)`` bool, True for visual tokens.
        ids: ``(B, N)`` int64 token ids, where the caller showed them.
        positions: rotary positions as the decoder gets them; heights and widths are the last two planes of
            ``(3 or 4, B or 1, N)``, other shapes have none.
    """
    batch = visual.shape[0]
    shown = visual.tolist()
    tokens = None if ids is None else ids.tolist()
    planes: list[list[list[int]]] = []
    if positions is not None and positions.ndim == 3 and positions.shape[0] >= 3:
        planes = positions[-2:].expand(2, batch, -1).tolist()
    return [
        tuple(
            _run(start, stop, [] if tokens is None else tokens[row], [plane[row] for plane in planes])
            for start, stop in _stretches(shown[row])
        )
        for row in range(batch)
    ]


def _run(start: int, stop: int, ids: list[int], planes: list[list[int]]) -> Run:
    return Run(
        length=stop - start,
        before=ids[start - 1] if ids and start else None,
        after=ids[stop] if stop < len(ids) else None,
        rows=tuple(planes[0][start:stop]) if planes else (),
        cols=tuple(planes[1][start:stop]) if planes else (),
    )


def _stretches(flags: list[bool]) -> list[tuple[int, int]]:
    """(start, stop) of every stretch of True."""
    changes = [place for place in range(1, len(flags)) if flags[place] != flags[place - 1]]
    bounds = [0, *changes, len(flags)]
    return [(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False) if stop > start and flags[start]]


def fixed_grids(runs: tuple[Run, ...], rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    """One ``(rows, cols)`` per image where all images have the same; empty if the tokens do not add up."""
    total = sum(run.length for run in runs)
    return () if total % (rows * cols) else ((rows, cols),) * (total // (rows * cols))
