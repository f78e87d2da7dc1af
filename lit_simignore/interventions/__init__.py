"""HOW attention heads look at visual tokens. One method per file; a file is found by being here."""

from __future__ import annotations

import sys

from lit_simignore.discovery import discover
from lit_simignore.interventions.base import Intervention
from lit_simignore.plugins import with_plugins

__path__ = with_plugins(__path__, __name__)


def INTERVENTIONS() -> dict[str, type[Intervention]]:  # noqa: N802 - a registry, which is read once
    """Every intervention by its file name."""
    return discover(sys.modules[__name__], Intervention)
