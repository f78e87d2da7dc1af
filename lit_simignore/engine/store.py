"""The durable record of a run: append-only, one file per process and attempt, nothing ever rewritten.

A run folder holds ``manifest.json`` (what the run is, see :mod:`~lit_simignore.engine.fingerprint`) and
``predictions-<attempt>-<process>.jsonl``. A process may be killed at any byte: the next attempt writes files of its
own, and a cut last line is skipped on reading. Whatever else a run shows is computed from these files.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_simignore.engine.atomic import cannot_write, sync_folder, write_json, write_text
from lit_simignore.engine.fingerprint import Fingerprint, differences
from lit_simignore.metrics.records import RECORD_FILES, Key, Run, read_run
from lit_simignore.types import Prediction, Sample, UserError

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
EFFICIENCY = "efficiency.json"
MEDIA = "media"

_NONCE = ".nonce"
_VERSION = 1
_SHOWN = 4
_PATIENCE_S = 20.0
"""How long a file that another machine wrote may take to appear: network file systems cache."""


class PredictionStore:
    """Records of one run folder.

    Args:
        run_dir: the folder; created when the first file is written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self.attempt = ""
        self._descriptor: int | None = None
        self._path = self.run_dir
        self._length = 0

    # -- what the folder holds

    def check(self, fingerprint: Fingerprint) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UserError: names what differs and what to do.
        """
        manifest = self.manifest()
        if manifest is None:
            if self._files():
                raise UserError(
                    f"{self.run_dir} holds predictions without a {MANIFEST}, so nobody knows what made them; "
                    "pass overwrite=true or another run.name"
                )
            return
        found = differences(manifest["run"], fingerprint.run)
        known = manifest["methods"]
        for name, parts in fingerprint.methods.items():
            if name in known:
                found += differences(known[name]["parts"], parts["parts"], f"method.{name}")
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise UserError(
                f"{self.run_dir} holds another run: {'; '.join(found[:_SHOWN])}{more}. Pass overwrite=true or another "
                "run.name, or name the changed method (name@field=value)"
            )

    def manifest(self) -> dict[str, Any] | None:
        """The contents of ``manifest.json``, ``None`` if there is none.

        Raises:
            UserError: it cannot be read.
        """
        path = self.run_dir / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            what = type(error).__name__
            raise UserError(f"cannot read {path} ({what}); pass overwrite=true or another run.name") from error
        if not _is_manifest(found):
            raise UserError(f"{path} is no manifest of this version; pass overwrite=true or another run.name")
        return dict(found)

    def read(self) -> Run:
        """All records, merged; empty if there are none yet.

        Raises:
            UserError: a record file is damaged elsewhere than at its end.
        """
        return read_run(self.run_dir) if self._files() else Run()

    def _files(self) -> list[Path]:
        return sorted(self.run_dir.glob(RECORD_FILES)) if self.run_dir.is_dir() else []

    # -- beginning an attempt: one process decides for all

    def prepare(self, fingerprint: Fingerprint, overwrite: bool = False) -> int:
        """Begin or continue the run. Only one process may do this, before any other writes.

        Args:
            fingerprint: of the run that is about to be computed; new methods are added to the manifest.
            overwrite: throw away what the folder holds.

        Returns:
            The number of this attempt, counted from 1, for :meth:`open`.

        Raises:
            UserError: the folder holds another run, or cannot be written.
        """
        if overwrite:
            self._clear()
        self.check(fingerprint)
        manifest = self.manifest() or {
            "version": _VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": fingerprint.run,
            "methods": {},
        }
        added = {name: parts for name, parts in fingerprint.methods.items() if name not in manifest["methods"]}
        if added or not manifest["methods"]:
            write_json(self.run_dir / MANIFEST, {**manifest, "methods": {**manifest["methods"], **added}})
        return 1 + max((_attempt_of(path) for path in self._files()), default=0)

    # -- whether all processes see one folder

    def mark(self, nonce: str) -> None:
        """Leave a word that only this attempt knows; only one process may do this.

        Raises:
            UserError: the folder cannot be written.
        """
        write_text(self.run_dir / _NONCE, nonce)

    def sees(self, nonce: str) -> bool:
        """Whether the word that :meth:`mark` left is there; waits some seconds for it."""
        path, deadline = self.run_dir / _NONCE, time.monotonic() + _PATIENCE_S
        while True:
            with suppress(OSError):
                if path.read_text(encoding="utf-8", errors="replace") == nonce:
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    def unmark(self) -> None:
        """Take the word away; where that fails, the next attempt replaces it."""
        with suppress(OSError):
            (self.run_dir / _NONCE).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete what an earlier run wrote here and nothing else: the folder may be anybody's."""
        written = [*self._files(), *(self.run_dir / name for name in (SUMMARY, EFFICIENCY, MANIFEST, "report.html"))]
        media = self.run_dir / MEDIA
        written += [*media.glob("*.png"), media / "index.json"]
        try:
            for path in written:
                path.unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"cannot overwrite {self.run_dir}: {why}; use another run.name") from error

    # -- writing

    def open(self, attempt: int, rank: int = 0, world_size: int = 1) -> None:
        """Create this process's own record file of this attempt.

        Raises:
            UserError: it exists, so another process is at work on the same run; or the folder cannot be written.
        """
        self.attempt = f"{attempt:04d}-r{rank}of{world_size}"
        self._path = self.run_dir / f"predictions-{attempt:04d}-r{rank:05d}.jsonl"
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            self._length = 0
            sync_folder(self.run_dir)
        except FileExistsError as error:
            raise UserError(
                f"{self._path} was made a moment ago by another process; wait for that one, or use another run.name"
            ) from error
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Write records durably, in one piece.

        Raises:
            UserError: the disk is full or gone. What was written before stays readable.
        """
        if self._descriptor is None:
            raise UserError("the prediction store is not open; call open() before append()")
        data = memoryview(b"".join(self._line(entry) for entry in predictions))
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            self._take_back()
            raise cannot_write(self._path, error) from error
        self._length += len(data)

    def _line(self, prediction: Prediction) -> bytes:
        row = {**asdict(prediction), "attempt": self.attempt}
        return json.dumps(row, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"

    def _take_back(self) -> None:
        """Cut off a record that was written in part. Where even that fails, reading skips it."""
        try:
            os.ftruncate(self._descriptor, self._length)  # type: ignore[arg-type]
        except OSError:
            return

    def close(self) -> None:
        """Close this process's file; may be called twice. An empty file is removed."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        os.close(descriptor)
        if not self._length:
            self._path.unlink(missing_ok=True)


def _is_manifest(found: object) -> bool:
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        return False
    run, methods = found.get("run"), found.get("methods")
    if not isinstance(run, dict) or not isinstance(methods, dict):
        return False
    return all(isinstance(parts, dict) and isinstance(parts.get("parts"), list) for parts in methods.values())


def _attempt_of(path: Path) -> int:
    number = path.name.removeprefix("predictions-").split("-")[0]
    return int(number) if number.isdecimal() else 0


def answered(run: Run, methods: Sequence[str]) -> dict[Key, bool]:
    """Which of the methods' records exist: True if good, False if it is an error that is worth another try."""
    return {key: record.error is None for key, record in run.predictions.items() if key[1] in methods}


def pending_samples(samples: Sequence[Sample], methods: Sequence[str], done: Mapping[Key, bool]) -> list[str]:
    """Ids of the samples that lack a good record of some method, in the order of the list."""
    return [s.sample_id for s in samples if not all(done.get((s.sample_id, name)) for name in methods)]


def check_same_data(run: Run, samples: Sequence[Sample]) -> None:
    """Refuse to continue when the questions or right answers changed under the run.

    Raises:
        UserError: names the first sample that is not what it was.
    """
    now = {sample.sample_id: (sample.prompt, sample.answer) for sample in samples}
    for (sample_id, _), record in run.predictions.items():
        if sample_id in now and now[sample_id] != (record.prompt, record.answer):
            raise UserError(
                f"the data changed since this run began: sample {sample_id!r} had another prompt or answer; "
                "pass overwrite=true or another run.name"
            )
