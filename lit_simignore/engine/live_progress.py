"""How far a run is and how it goes, read from the files that all its processes append to."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_simignore.metrics.records import RECORD_FILES
from lit_simignore.metrics.statistics import wilson_interval
from lit_simignore.tracking import live_key

_RECENT = 512
"""Records that latencies and the speed are taken over."""


class Tail:
    """New whole lines of a growing set of files, each line once."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._read: dict[Path, int] = {}

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Records written since the last call; a line that is still being written waits for the next one."""
        for path in sorted(self._run_dir.glob(RECORD_FILES)):
            try:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    whole, newline, _ = file.read().rpartition(b"\n")
            except OSError:
                continue  # an empty file is removed when its process ends
            self._read[path] = self._read.get(path, 0) + len(whole) + len(newline)
            for line in whole.split(b"\n"):
                row = _row(line)
                if row is not None:
                    yield row


def _row(line: bytes) -> Mapping[str, Any] | None:
    """One record; ``None`` for what a killed process left of one."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "sample_id" in found and "method" in found else None


@dataclass(slots=True)
class _Tally:
    """One method so far: the score of every answered sample (``None`` without one), and the failed samples."""

    scores: dict[str, float | None] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, row: Mapping[str, Any]) -> None:
        sample, score = str(row["sample_id"]), row.get("score")
        if row.get("error") is None:
            self.failed.discard(sample)
            self.scores[sample] = float(score) if isinstance(score, (int, float)) else None
            self.latencies.append(float(row.get("latency_ms") or 0.0))
        elif sample not in self.scores:
            self.failed.add(sample)


class Progress:
    """The state of a run as numbers, as often as it is asked for.

    Args:
        run_dir: the run folder.
        methods: names of the methods to tell of.
        num_samples: samples of the benchmark, for the share that is done; 0 if it is not known.
    """

    def __init__(self, run_dir: Path, methods: Sequence[str], num_samples: int = 0) -> None:
        self._tail, self._num_samples = Tail(run_dir), num_samples
        self._tallies = {name: _Tally() for name in methods}
        self._pace: deque[tuple[float, int]] = deque(maxlen=64)
        self._records = 0

    def point(self) -> dict[str, float]:
        """All numbers under their logged names; empty while there are no records, or none that are new."""
        before = self._records
        for row in self._tail.rows():
            tally = self._tallies.get(str(row["method"]))
            if tally is not None:
                tally.add(row)
                self._records += 1
        # The records of earlier attempts, which the first look finds, are no speed of this one.
        self._pace.append((time.monotonic(), self._records))
        if self._records == before:
            return {}
        found = {live_key("records"): float(self._records), **_memory(), **self._speed()}
        if self._num_samples:
            done = sum(len(tally.scores) + len(tally.failed) for tally in self._tallies.values())
            found[live_key("share_done")] = done / (self._num_samples * len(self._tallies))
        for name, tally in self._tallies.items():
            found |= {live_key(metric, name): value for metric, value in _described(tally).items()}
        return found

    def _speed(self) -> dict[str, float]:
        """Samples per second through all methods, over the last looks."""
        (began, first), (now, last) = self._pace[0], self._pace[-1]
        if now <= began:
            return {}
        return {live_key("samples_per_s"): (last - first) / len(self._tallies) / (now - began)}


def _described(tally: _Tally) -> dict[str, float]:
    found = {"errors": float(len(tally.failed))}
    scores = [score for score in tally.scores.values() if score is not None]
    if scores:
        low, high = wilson_interval(min(sum(scores), float(len(scores))), len(scores))
        found |= {"accuracy": sum(scores) / len(scores), "accuracy_low": low, "accuracy_high": high}
    if tally.latencies:
        middle, slow = np.percentile(tally.latencies, (50, 95))
        found |= {"latency_ms_p50": float(middle), "latency_ms_p95": float(slow)}
    return found


def _memory() -> dict[str, float]:
    """Peaks of this process and of its devices, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = {live_key("peak_process_memory_mib"): resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks = [torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())]
        found[live_key("peak_device_memory_mib")] = max(peaks) / 2**20
    return found
