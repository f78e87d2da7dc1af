"""HOW attention heads look at visual tokens. One method per file; a file is found by being here."""

from __future__ import annotations

import sys
from functools import cache

from lit_simignore.discovery import discover
from lit_simignore.interventions.base import Intervention


@cache
def INTERVENTIONS() -> dict[str, type[Intervention]]:  # noqa: N802 - a registry, which is read once
    """Every intervention by its file name."""
    return discover(sys.modules[__name__], Intervention)
