"""Conversations from JSON, JSON lines, Parquet and the hub: everything is read and checked before the first step."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lit_simignore.benchmarks._hub import is_hub_id
from lit_simignore.benchmarks._paths import inside
from lit_simignore.data.conversations import Conversation, parse_conversation
from lit_simignore.surgery.images import open_image
from lit_simignore.types import ImageSource, UserError

_SURROGATES = range(0xDC80, 0xDD00)
"""What Python writes for bytes that are no UTF-8 when told to go on."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A picture as the bytes of its file; decoded when called."""

    data: bytes

    def __call__(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data))


def read_conversations(
    path: str,
    *,
    image_folder: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
    check_images: bool = False,
) -> list[Conversation]:
    """All conversations of a file or a dataset on the hub.

    Args:
        path: ``.json`` (a list), ``.jsonl``, ``.parquet``, a folder of Parquet files, or a hub id ``owner/dataset``.
        image_folder: where relative image paths begin; ``None`` is the file's own folder.
        split: of a dataset on the hub.
        revision: of a dataset on the hub.
        limit: use only the first so many.
        check_images: open every picture now, instead of only looking whether it is there.

    Raises:
        UserError: names file, record and fault; nothing has been written by then.
    """
    source = Path(path)
    folder = Path(image_folder) if image_folder else (source if source.is_dir() else source.parent)
    found: list[Conversation] = []
    for where, row in _records(path, split, revision):
        if limit is not None and len(found) == limit:
            break

        def image(entry: object, where: str = where) -> ImageSource:
            return _image(entry, folder, where, check_images)

        found.append(parse_conversation(row, f"record {len(found) + 1}", where, image))
    if not found:
        raise UserError(f"{path} holds no conversations; expected at least one record")
    return found


def files_digest(path: str, split: str, revision: str | None) -> str:
    """What tells one set of conversations from another: the content of files, name and revision of the hub."""
    source = Path(path)
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source] if source.is_file() else []
    hashed = hashlib.sha256(b"" if files else f"{path} {split} {revision}".encode())
    for file in files:
        with file.open("rb") as opened:
            hashed.update(hashlib.file_digest(opened, "sha256").digest())
    return hashed.hexdigest()[:16]


def _records(path: str, split: str, revision: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every record with the prefix of messages about it."""
    source = Path(path)
    if source.is_dir():
        files = sorted(source.glob("*.parquet"))
        if not files:
            raise UserError(f"the folder {path} holds no .parquet files; name the .json or .jsonl file itself")
        for file in files:
            yield from _parquet(file)
    elif source.is_file():
        readers = {".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}
        if source.suffix not in readers:
            raise UserError(f"expected a file ending in {', '.join(readers)}; got {path}")
        yield from readers[source.suffix](source)
    elif is_hub_id(path):
        yield from _hub(path, split, revision)
    else:
        raise UserError(f"expected a file of conversations or a hub id owner/dataset; nothing is at {path!r}")


def _json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Bad bytes become lone surrogates, which the record that holds them is then named for.
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is no JSON: {error}; a file of one record per line must end in .jsonl") from error
    if not isinstance(rows, list):
        raise UserError(f"{path.name}: expected a list of records; got a {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        where = _where(path.name, f"record {number}", row)
        _check_utf8(row, where)
        yield where, _mapping(row, where)


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}, line {number}: "
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{place}not UTF-8 at byte {error.start}; save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}expected one JSON object per line; {error}") from error
        where = _where(path.name, f"line {number}", row)
        yield where, _mapping(row, where)


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"reading {path.name} needs the package pyarrow: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield _where(path.name, f"record {number}", row), row
    # pyarrow's own errors all derive from ValueError or OSError
    except (ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path.name} cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _hub(name: str, split: str, revision: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(f"{name!r} is no local path; reading it from the hub needs: pip install datasets") from error
    try:
        dataset = datasets.load_dataset(name, split=split, revision=revision)
        for column in {"image", "images"} & set(dataset.column_names):
            undecoded = datasets.Image(decode=False)
            many = isinstance(dataset.features[column], datasets.List | datasets.Sequence)
            dataset = dataset.cast_column(column, datasets.List(undecoded) if many else undecoded)
    # Loading fails in as many ways as there are networks, caches and file formats; all end in one readable line.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"cannot load split {split!r} of {name!r} from the hub: {reason[0]}; "
            "data.path also takes files of this machine"
        ) from error
    for number, row in enumerate(dataset, start=1):
        yield _where(name, f"record {number}", row), row


def _image(entry: object, folder: Path, where: str, check: bool) -> ImageSource:
    source: ImageSource
    if isinstance(entry, Mapping):  # how Parquet and datasets keep a file
        data = entry.get("bytes")
        source = EncodedImage(data) if isinstance(data, bytes) and data else _file(entry.get("path"), folder, where)
    elif isinstance(entry, bytes):
        source = EncodedImage(entry)
    else:
        source = _file(entry, folder, where)
    if check:
        try:
            open_image(source)
        # Pillow reports broken data in many ways
        except Exception as error:
            raise UserError(f"{where}{error}") from error
    return source


def _file(entry: object, folder: Path, where: str) -> Path:
    if not isinstance(entry, str) or not entry or "://" in entry:
        raise UserError(f"{where}an image must be a local path; got {entry!r}")
    path = Path(entry) if Path(entry).is_absolute() else inside(folder, entry, where)
    if not path.is_file():
        raise UserError(f"{where}image file not found: {path}")
    return path


def _mapping(row: object, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}expected a JSON object; got a {type(row).__name__}")
    return row


def _where(file: str, place: str, row: object) -> str:
    name = row.get("id") if isinstance(row, Mapping) else None
    named = f" (id {name!r})" if isinstance(name, str | int) and name != "" else ""
    return f"{file}, {place}{named}: ".encode("utf-8", errors="replace").decode()


def _check_utf8(value: object, where: str) -> None:
    if isinstance(value, str):
        if any(ord(letter) in _SURROGATES for letter in value):
            raise UserError(f"{where}not UTF-8; save the file as UTF-8")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check_utf8(name, where)
            _check_utf8(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_utf8(item, where)
