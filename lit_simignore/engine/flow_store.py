"""``flow/`` in a run folder: arrays as ``.npz``, everything else in ``flow.json``, each part with what it answers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_simignore.engine.atomic import cannot_write, write_json
from lit_simignore.types import UserError

FOLDER, INDEX = "flow", "flow.json"


class FlowStore:
    """The parts of one analysis. A part is computed once for as long as its question stays the same.

    Args:
        run_dir: the run folder.
        question: what everything depends on: the model, the data.
    """

    def __init__(self, run_dir: Path, question: Mapping[str, Any]) -> None:
        self.folder = run_dir / FOLDER
        self._question = dict(question)
        self.identity = json.dumps(self._question, sort_keys=True)
        self._parts = self._read()

    def part(self, name: str, question: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The part ``name``: what ``compute`` returned for this question, now or in an earlier run."""
        asked = json.loads(json.dumps({**self._question, **question}))
        known = self._parts.get(name)
        if known is None or known.get("question") != asked or not self._has_arrays(known):
            known = {"question": asked, **compute()}
            self._parts[name] = known
            write_json(self.folder / INDEX, {"version": 1, "parts": self._parts})
        return known

    def drop_others(self, names: set[str]) -> None:
        """Forget the parts that were not asked for, so that the report shows one analysis and not two."""
        if set(self._parts) - names:
            self._parts = {name: part for name, part in self._parts.items() if name in names}
            write_json(self.folder / INDEX, {"version": 1, "parts": self._parts})

    def save(self, file: str, **arrays: Any) -> str:
        """Write ``flow/<file>``, in one step; returns its name."""
        buffer = io.BytesIO()
        made: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez_compressed(buffer, **made)
        path = self.folder / file
        scratch = path.with_name(f".{file}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(buffer.getvalue())
            scratch.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        return file

    def load(self, file: str) -> dict[str, Any] | None:
        """The arrays of ``flow/<file>``; ``None`` where there are none that can be read."""
        try:
            with np.load(self.folder / file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, KeyError):
            return None

    def _has_arrays(self, part: Mapping[str, Any]) -> bool:
        files = [part.get("file"), *(entry.get("file") for entry in part.get("samples") or ())]
        return all((self.folder / file).is_file() for file in files if file)

    def _read(self) -> dict[str, dict[str, Any]]:
        """What is there; a broken index is made anew."""
        try:
            found = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        parts = found.get("parts") if isinstance(found, dict) else None
        return dict(parts) if isinstance(parts, dict) else {}


def check_plan(name: str, value: int | float, least: int | float) -> None:
    """Refuse a setting below its least value."""
    if value < least:
        raise UserError(f"flow.{name} must be at least {least}; got {value}")
