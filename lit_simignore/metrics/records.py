"""Saved predictions: JSON lines in, one record per sample and method out. Shared by engine, report and comparison.

A run's writers append whole lines and may be killed at any byte, so the LAST line of a record file may be torn: it is
skipped and counted. A broken line anywhere else is damage and is refused, with its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from lit_simignore.types import Prediction, UserError

Key: TypeAlias = tuple[str, str]
"""``(sample_id, method)``."""

RunSource: TypeAlias = "str | Path | Iterable[Prediction | Mapping[str, Any]]"
"""A run folder, one ``.jsonl`` file, or records in memory."""

RECORD_FILES = "predictions-*.jsonl"
"""Where a run folder keeps its records. Files are read in the order of their names: later ones win."""

_FIELDS = {entry.name for entry in fields(Prediction)}


class JsonLines(NamedTuple):
    """The objects of a JSON-lines file with their 1-based line numbers, and how many torn lines were skipped."""

    rows: list[tuple[int, dict[str, Any]]]
    torn: int


@dataclass(slots=True)
class Run:
    """The records of one run, merged.

    Args:
        predictions: the record that counts, by ``(sample_id, method)``, in order of first appearance.
        torn: cut last lines that were skipped.
        duplicates: good records that a later good record of the same key replaced.
        conflicts: those among the duplicates whose output differs from the one that replaced it.
    """

    predictions: dict[Key, Prediction] = field(default_factory=dict)
    torn: int = 0
    duplicates: int = 0
    conflicts: int = 0

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in order of first appearance."""
        return tuple(dict.fromkeys(method for _, method in self.predictions))

    def of(self, method: str) -> dict[str, Prediction]:
        """One method's records by sample id."""
        return {sample: record for (sample, name), record in self.predictions.items() if name == method}

    def add(self, record: Prediction) -> None:
        """Merge one more record: the last good one wins; an error counts only while there is nothing better."""
        key = (record.sample_id, record.method)
        known = self.predictions.get(key)
        if known is not None and known.error is None:
            if record.error is not None:
                return
            self.duplicates += 1
            self.conflicts += known.output != record.output
        self.predictions[key] = record


def read_run(source: RunSource) -> Run:
    """Read and merge the records of a run.

    Raises:
        UserError: the path holds no records, or a line before the last is no record.
    """
    run = Run()
    if not isinstance(source, (str, Path)):
        for entry in source:
            run.add(entry if isinstance(entry, Prediction) else to_prediction(entry))
        return run
    for path in record_files(Path(source)):
        lines = read_json_lines(path, allow_torn=True)
        run.torn += lines.torn
        for number, row in lines.rows:
            run.add(to_prediction(row, f"{path.name}, line {number}: "))
    return run


def record_files(source: Path) -> list[Path]:
    """The record files of a run folder in reading order, or the one file that is named."""
    if source.is_file():
        return [source]
    files = sorted(source.glob(RECORD_FILES)) if source.is_dir() else []
    if not files:
        raise UserError(f"expected a run folder with {RECORD_FILES} or a .jsonl file of predictions; got {source}")
    return files


def read_json_lines(path: Path, allow_torn: bool = False) -> JsonLines:
    """Read a file of one JSON object per line. Blank lines and a byte-order mark are skipped.

    Args:
        path: UTF-8 text; only a line feed ends a line.
        allow_torn: skip and count a last line that is no JSON object, instead of refusing it.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object; names file and line.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in numbered:
        try:
            rows.append((number, _object(line)))
        except ValueError as error:
            if allow_torn and number == numbered[-1][0]:
                return JsonLines(rows, torn=1)
            raise UserError(f"{path.name}, line {number}: expected one JSON object per line; {error}") from error
    return JsonLines(rows, torn=0)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"got a {type(value).__name__}")
    return value


def to_prediction(row: Mapping[str, Any], where: str = "") -> Prediction:
    """Turn one decoded record into a :class:`Prediction`; keys of newer versions are ignored.

    Args:
        row: needs ``sample_id`` and ``method``; everything else has a neutral default.
        where: prefix of error messages, e.g. ``"file, line 3: "``.
    """
    for name in ("sample_id", "method"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise UserError(f"{where}a record needs a non-empty string as {name}; got {row.get(name)!r}")
    for name in ("group_id", "prompt", "output", "kind"):
        if not isinstance(row.get(name, ""), str):
            raise UserError(f"{where}{name} must be a string; got {row[name]!r}")
    score = row.get("score")
    if score is not None and not _is_score(score):
        raise UserError(f"{where}score must be null or between 0 and 1; got {score!r}")
    known = {name: value for name, value in row.items() if name in _FIELDS}
    return Prediction(**{"group_id": "", "prompt": "", "answer": None, **known})


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1
