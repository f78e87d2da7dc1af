"""Whether visual tokens can be drawn over the image."""

from __future__ import annotations

from lit_simignore.report.media import MediaEntry
from lit_simignore.surgery.trace import CallTrace


def grid_entry(call: CallTrace) -> MediaEntry | None:
    """The grid of visual tokens that covers the image; ``None`` where tokens are no grid over the whole image."""
    (grids,), (total,) = call.grids, call.num_visual
    if len(grids) != 1 or grids[0][0] * grids[0][1] != total:
        return None
    return MediaEntry("", *grids[0])
