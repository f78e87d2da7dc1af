"""Writing files so that a reader finds the old content or the new one, whatever is killed and whatever fills up."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from lit_simignore.types import UserError


def write_text(path: Path, text: str) -> None:
    """Replace the contents of ``path``, durably, in one step.

    Raises:
        UserError: it cannot be written (a full disk, no permission); the old content is still there.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` with ``value`` as JSON. Numbers that JSON does not know (infinity, NaN) are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, which syncing a file does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> UserError:
    """One line about a write that failed."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; what was computed before is kept: make room or mend the "
        "folder and run the same command again"
    )
