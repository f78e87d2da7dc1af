"""A run seen from outside: several processes' files, while they grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_simignore.engine.live_progress import Progress, Tail
from lit_simignore.metrics.statistics import wilson_interval
from lit_simignore.tracking import live_key


def line(sample: str, method: str = "a", **values: Any) -> str:
    return json.dumps({"sample_id": sample, "method": method, "latency_ms": 1.0, "error": None, **values}) + "\n"


def write(folder: Path, rank: int, text: str) -> None:
    with (folder / f"predictions-0001-r{rank:05d}.jsonl").open("a") as file:
        file.write(text)


def test_a_tail_gives_every_whole_line_once_from_all_files(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    assert list(tail.rows()) == []
    half = line("s3")
    write(tmp_path, 0, line("s1") + half[:20])
    write(tmp_path, 1, line("s2"))
    assert [row["sample_id"] for row in tail.rows()] == ["s1", "s2"]
    assert list(tail.rows()) == []
    write(tmp_path, 0, half[20:])
    write(tmp_path, 2, '{"torn\n' + line("s4"))
    assert [row["sample_id"] for row in tail.rows()] == ["s3", "s4"]


def test_a_point_counts_what_all_processes_answered(tmp_path: Path) -> None:
    progress = Progress(tmp_path, ["a", "b"], num_samples=10)
    assert progress.point() == {}
    write(tmp_path, 0, line("s1", score=1.0, latency_ms=10.0) + line("s2", score=0.0, latency_ms=20.0))
    write(tmp_path, 1, line("s3", score=1.0, latency_ms=60.0) + line("s4", error="broken"))
    write(tmp_path, 1, line("s1", "b", score=None) + line("s1", "of another run"))
    point = progress.point()
    assert point["live/records"] == 5
    assert point["live/share_done"] == 5 / 20
    assert point["live/a/accuracy"] == pytest.approx(2 / 3)
    assert (point["live/a/accuracy_low"], point["live/a/accuracy_high"]) == pytest.approx(wilson_interval(2, 3))
    assert point["live/a/latency_ms_p95"] == pytest.approx(np.percentile([10, 20, 60], 95))
    assert (point["live/a/errors"], point["live/b/errors"]) == (1, 0)
    assert "live/b/accuracy" not in point
    assert point["live/peak_process_memory_mib"] > 1
    assert point["live/samples_per_s"] > 0
    assert progress.point() == {}, "nothing new, nothing to say"


def test_a_failed_sample_that_is_answered_later_is_no_error_any_more(tmp_path: Path) -> None:
    progress = Progress(tmp_path, ["a"])
    write(tmp_path, 0, line("s1", error="no memory") + line("s2", score=1.0))
    assert progress.point()["live/a/errors"] == 1
    write(tmp_path, 0, line("s1", score=0.0) + line("s2", error="late"))
    point = progress.point()
    assert (point["live/a/errors"], point["live/a/accuracy"]) == (0, 0.5)


def test_a_number_without_a_name_in_tracking_cannot_be_logged() -> None:
    with pytest.raises(KeyError):
        live_key("acuracy", "a")
