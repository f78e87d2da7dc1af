"""Mistral Small 3.1 and later: any resolution, every row of an image ended by a token of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run

LONGEST_EDGE = "it takes pictures of any size, so give its processor a smaller size={'longest_edge': ...}"


class Mistral3(Family):
    """A Pixtral tower (no class token) that merges 2 x 2 patches; row ends are text and always stay."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)
    processor: ClassVar[str] = "ImagesOnlyPixtral"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    instead: ClassVar[Mapping[Need, str]] = MappingProxyType({**Family.instead, Need.RESIZED_IMAGE: LONGEST_EDGE})
    reusable_beginning: ClassVar[bool] = True

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Every run is a row. The token that ends a sample's last row ends an image; another one only a row."""
        grids, rows = [], []
        for run in runs:
            rows.append(run.length)
            if run.after == runs[-1].after:
                grids.append((len(rows), run.length))
                if set(rows) != {run.length}:
                    return ()
                rows = []
        return tuple(grids)
