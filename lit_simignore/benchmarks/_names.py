"""Names of numbers: what a summary, a table and a logger take as a key."""

from __future__ import annotations

import re

_OTHER = re.compile(r"[^a-z0-9]+")


def metric_name(*parts: str) -> str:
    """``("Fine-grained", "acc")`` -> ``fine_grained_acc``: small letters, digits and underscores, a letter first."""
    name = _OTHER.sub("_", "_".join(parts).lower()).strip("_")
    return name if name[:1].isalpha() else f"n_{name}"
