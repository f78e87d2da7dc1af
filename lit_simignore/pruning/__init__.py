"""Which visual tokens stay. One method per file; the file's name is the method's name."""

from __future__ import annotations

import sys

from lit_simignore.discovery import discover
from lit_simignore.plugins import with_plugins
from lit_simignore.pruning.base import Pruner

__path__ = with_plugins(__path__, __name__)


def PRUNERS() -> dict[str, type[Pruner]]:  # noqa: N802 - reads as the constant that a scan makes it
    """Every pruner by the name of its file, e.g. ``PRUNERS()["simignore"]``. Scanned once per process."""
    return discover(sys.modules[__name__], Pruner)  # type: ignore[type-abstract]
