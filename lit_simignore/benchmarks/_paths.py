"""Where the files that a data file names may lie."""

from __future__ import annotations

import os
from pathlib import Path

from lit_simignore.types import UserError


def inside(folder: Path, name: str, where: str) -> Path:
    """``folder / name``, refused when ``..`` or an absolute name would lead out of ``folder``.

    The check is on the names, not on where links point: a link inside the folder was put there by its owner.

    Raises:
        UserError: ``name`` leads out of ``folder``; the message begins with ``where``.
    """
    normal = os.path.normpath(name)
    if "\0" in name or os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir:
        raise UserError(f"{where}expected a path inside {folder}; got {name!r}")
    return folder / normal
