"""Benchmarks, one per file: the file's name is the benchmark's name. Modules that begin with ``_`` are shared parts."""

from __future__ import annotations

import sys

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.discovery import discover
from lit_simignore.plugins import with_plugins

__path__ = with_plugins(__path__, __name__)


def BENCHMARKS() -> dict[str, type[Benchmark]]:  # noqa: N802 - a table that is filled on first use
    """All benchmarks by name."""
    return discover(sys.modules[__name__], Benchmark)  # type: ignore[type-abstract]
