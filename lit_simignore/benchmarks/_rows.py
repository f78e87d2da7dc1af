"""Records of a data file with their places, whatever the format: a bad one is named by file and record."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_simignore.benchmarks._hub import parquet_rows
from lit_simignore.metrics.records import read_json_lines
from lit_simignore.types import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One record.

    Args:
        where: its place, as the beginning of a message.
        values: by column.
    """

    where: str
    values: Mapping[str, Any]

    def get(self, *names: str) -> Any:
        """The value of the first of these columns that there is and that holds something; ``None`` for none."""
        return next((self.values[name] for name in names if not _is_empty(self.values.get(name))), None)

    def need(self, *names: str) -> Any:
        """The same, and an error for none.

        Raises:
            UserError: names the place, what was expected and which columns there are.
        """
        value = self.get(*names)
        if value is None:
            raise UserError(f"{self.where}expected {' or '.join(names)}; found {', '.join(map(str, self.values))}")
        return value

    def text(self, *names: str) -> str:
        """:meth:`get` as text; empty for none."""
        value = self.get(*names)
        return "" if value is None else str(value)

    def need_text(self, *names: str) -> str:
        """:meth:`need` as text."""
        return str(self.need(*names))

    def one_of(self, valid: tuple[str, ...], *names: str) -> str:
        """:meth:`need_text` in small letters, which must be one of ``valid``."""
        value = self.need_text(*names).strip().lower()
        if value not in valid:
            raise UserError(f"{self.where}expected {' or '.join(valid)} as {names[0]}; got {value[:80]!r}")
        return value

    def strings(self, *names: str) -> list[str]:
        """:meth:`need` as a list of texts; an array of a table counts."""
        value = self.need(*names)
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise UserError(f"{self.where}expected a list as {names[0]}; got {str(value)[:80]!r}")
        return [str(item) for item in value]


def read_rows(file: Path, image_column: str = "image") -> Iterator[Row]:
    """The records of a ``.jsonl``, ``.json`` (a list, or JSON lines), ``.tsv`` or ``.parquet`` file, in its order.

    Raises:
        UserError: the file cannot be read or a record is no object; names file and record.
    """
    if file.suffix == ".tsv":
        yield from _tab_separated(file)
    elif file.suffix == ".parquet":
        for index, values in enumerate(parquet_rows([file], image_column)):
            yield Row(f"{file.name}, row {index}: ", values)
    elif file.suffix == ".json" and _starts_a_list(file):
        yield from objects(read_json(file), file.name)
    elif file.suffix in (".json", ".jsonl"):
        for number, values in read_json_lines(file).rows:
            yield Row(f"{file.name}, line {number}: ", values)
    else:
        raise UserError(f"expected .jsonl, .json, .tsv or .parquet; got {file}")


def objects(items: Any, name: str) -> Iterator[Row]:
    """The items of a list that was read from the file called ``name``.

    Raises:
        UserError: it is no list, or an item is no object.
    """
    if not isinstance(items, list):
        raise UserError(f"{name}: expected a list of objects; got a {type(items).__name__}")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise UserError(f"{name}, item {index}: expected an object; got a {type(item).__name__}")
        yield Row(f"{name}, item {index}: ", item)


def member(document: Any, key: str, name: str) -> Any:
    """``document[key]`` of an object that was read from the file called ``name``.

    Raises:
        UserError: it is no object, or has no such key.
    """
    if not isinstance(document, dict) or key not in document:
        found = ", ".join(list(map(str, document))[:8]) if isinstance(document, dict) else type(document).__name__
        raise UserError(f"{name}: expected an object with {key}; found {found}")
    return document[key]


def read_json(path: Path) -> Any:
    """One JSON document.

    Raises:
        UserError: the file cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not valid JSON: {error}") from error


def _starts_a_list(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def _tab_separated(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a field may hold a whole picture
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, delimiter="\t")
            for index, values in enumerate(reader):
                where = f"{file.name}, row {index}: "
                if None in values or None in values.values():
                    raise UserError(f"{where}expected {len(reader.fieldnames or ())} tab-separated columns; got others")
                yield Row(where, values)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file.name} is not a tab-separated table in UTF-8: {error}") from error


def _is_empty(value: Any) -> bool:
    """Missing as JSON, tables and pandas write it. Text that says "None" is text: it may be an option."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value in ("", "nan"))
