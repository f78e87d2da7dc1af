"""A user's own extensions, in folders outside the package.

``add_plugins(folder)`` (on the command line ``plugins=folder``) makes the files below ``folder/pruning``,
``folder/interventions``, ``folder/benchmarks`` and ``folder/families`` count as if they were files of the packages of
these names. The folders are kept in an environment variable, because processes that are started later have to find the
same classes. Adding a folder runs the code in it: nothing that reads a configuration may do so.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from lit_simignore.types import UserError

VARIABLE = "LIT_SIMIGNORE_PLUGINS"
"""Environment variable with the folders, separated as in ``PATH``."""

KINDS = ("pruning", "interventions", "benchmarks", "families")
"""What may lie in a plugin folder, by the package that it extends."""


def add_plugins(folder: str | Path) -> None:
    """Let the files below ``folder`` count as extensions, in this process and in those that it starts.

    Args:
        folder: holds one or more of ``pruning/``, ``interventions/``, ``benchmarks/`` and ``families/``.

    Raises:
        UserError: there is no such folder, or it holds none of these.
    """
    path = Path(folder).expanduser().resolve()
    if not any((path / kind).is_dir() for kind in KINDS):
        came = "which holds none of them" if path.is_dir() else "which is no folder"
        raise UserError(f"plugins: expected a folder that holds {'/, '.join(KINDS)}/; got {str(folder)!r}, {came}")
    if os.pathsep in str(path):
        raise UserError(f"plugins: {str(path)!r} contains {os.pathsep!r}, which separates folders; rename it")
    known = plugin_folders()
    if path not in known:
        os.environ[VARIABLE] = os.pathsep.join(map(str, (*known, path)))


def plugin_folders() -> tuple[Path, ...]:
    """The folders that were added, in order."""
    return tuple(Path(entry) for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry)


def with_plugins(folders: Iterable[str], package: str) -> list[str]:
    """``folders`` of the package called ``package``, and those of plugins that extend it."""
    kind = package.rsplit(".", 1)[-1]
    own = (folder / kind for folder in plugin_folders() if kind in KINDS)
    return [*folders, *(str(folder) for folder in own if folder.is_dir())]


def plugin_digest(cls: type) -> str | None:
    """Sixteen hexadecimal digits of the code behind a plugin's class; ``None`` for what is part of the package.

    Its file counts, those of plugins that it derives from, and the ``_*.py`` files beside them, which they may share.
    """
    folders = {folder / kind for folder in plugin_folders() for kind in KINDS}
    homes = {getattr(sys.modules.get(base.__module__), "__file__", None) or "" for base in cls.__mro__}
    files = {Path(home) for home in homes if Path(home).parent in folders}
    if not files:
        return None
    shared = {file for folder in {file.parent for file in files} for file in folder.glob("_*.py")}
    parts = [file.name.encode() + b"\0" + file.read_bytes() for file in sorted(files | shared)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
