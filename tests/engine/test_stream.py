"""A run shown while it goes on, by loggers that work, hang, fail and cannot be reached."""

from __future__ import annotations

import csv
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import DummyLogger, Logger

from lit_simignore import tracking
from lit_simignore.engine.evaluate import evaluate
from lit_simignore.engine.sample_table import sample_rows
from lit_simignore.engine.stream import QUEUE, Stream
from lit_simignore.tracking import SAMPLE_COLUMNS, build_logger, log_summary
from lit_simignore.types import UserError
from tests.engine.toys import BASELINE, STRIDE, Toy, lines, model_and_processor, settings


class Notes(DummyLogger):
    """Keeps what it gets."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.seen: list[tuple[dict[str, float], int | None]] = []
        self.act = act

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.act()
        self.seen.append((dict(metrics), step))


def run(folder: Path, stream: Stream, **changes: Any) -> dict[str, Any]:
    return evaluate(*model_and_processor(), Toy(), (BASELINE, STRIDE), folder, settings(**changes), [stream])


def ended(logger: Logger) -> None:
    logger.log_metrics({"the end": 1.0})


def test_the_last_point_is_the_summary_and_the_end_comes_after_it(tmp_path: Path) -> None:
    notes = Notes()
    stream = Stream(lambda: notes, tmp_path, every_s=0.05)
    summary = run(tmp_path, stream)
    assert stream.close(ended)
    (point, step), (last, _) = notes.seen[-2:]
    assert last == {"the end": 1.0}
    assert step == point["live/records"] == lines(tmp_path) == 22
    assert point["live/share_done"] == 1
    for row in summary["methods"]:
        assert point[f"live/{row['name']}/accuracy"] == pytest.approx(row["accuracy"])
        assert point[f"live/{row['name']}/errors"] == row["errors"] == 0
    assert point["live/dropped"] == stream.dropped == 0


def test_a_logger_that_hangs_costs_points_and_no_time(tmp_path: Path) -> None:
    release = threading.Event()
    stream = Stream(lambda: Notes(lambda: bool(release.wait(30)) and None), tmp_path, every_s=1000)
    stream.start([])
    for _ in range(2 * QUEUE):
        stream._offer(ended)
    assert stream.dropped >= QUEUE - 2
    assert run(tmp_path, stream)["run"]["complete"]
    assert stream.close(ended, patience_s=0.2) is False
    release.set()


def test_a_logger_that_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConnectionError("no route\nto host")

    stream = Stream(lambda: Notes(fail), tmp_path, every_s=0.05)
    assert run(tmp_path, stream)["run"]["complete"]
    assert stream.close(ended) is False
    said = [text for text in capsys.readouterr().err.splitlines() if "nothing more is logged" in text]
    assert said == ["nothing more is logged: ConnectionError: no route to host; the run folder is complete without it"]


def test_a_logger_that_cannot_be_made(tmp_path: Path) -> None:
    def broken() -> Logger:
        raise RuntimeError("no service")

    stream = Stream(broken, tmp_path)
    assert run(tmp_path, stream)["run"]["complete"]
    assert stream.close(ended) is False
    with pytest.raises(UserError, match="unknown logger"):
        Stream(partial(build_logger, "wandbb", tmp_path), tmp_path).close(ended)


def test_a_forked_process_leaves_the_telling_to_the_first(tmp_path: Path, one_thread: None) -> None:
    notes = Notes()
    stream = Stream(lambda: notes, tmp_path, every_s=0.05)
    assert run(tmp_path, stream, devices=2, strategy="ddp_fork")["run"]["complete"]
    assert stream.close(ended)
    assert [list(point) for point, _ in notes.seen] == [["the end"]]
    pickle.loads(pickle.dumps(stream)).stop()  # as a spawned process gets it


def test_tensorboard_has_the_course_the_results_and_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stream = Stream(partial(build_logger, "tensorboard", tmp_path), tmp_path, every_s=0.05)
    summary = run(tmp_path, stream)
    assert stream.close(lambda logger: log_summary(logger, summary))
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    seen = {name: [(entry.step, entry.value) for entry in found.Scalars(name)] for name in found.Tags()["scalars"]}
    assert seen["live/records"][-1] == (22, 22.0) and seen["live/share_done"][-1] == (22, 1.0)
    for row in summary["methods"]:
        name = row["name"]
        assert seen[f"live/{name}/accuracy"][-1] == (22, pytest.approx(row["accuracy"]))
        for metric, value in tracking.metrics_of(row).items():
            assert seen[f"eval/{name}/{metric}"] == [(0, pytest.approx(value, rel=1e-6))]
        assert seen[f"curve/{name}"] == [(round(row["budget"]["final"]), pytest.approx(row["accuracy"]))]
    assert len(summary["methods"]) == 2


def test_a_csv_has_the_results_alone(tmp_path: Path) -> None:
    stream = Stream(partial(build_logger, "csv", tmp_path), tmp_path, every_s=0.05)
    summary = run(tmp_path, stream)
    assert stream.close(lambda logger: log_summary(logger, summary))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["baseline", "stride"]
    for row, told in zip(summary["methods"], rows, strict=True):
        expected = {name: pytest.approx(float(value)) for name, value in tracking.metrics_of(row).items()}
        assert {name: float(told[name]) for name in expected} == expected


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(params=["refuses", "is silent"])
def host(request: pytest.FixtureRequest, signed_in: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A W&B that cannot be reached."""
    monkeypatch.setattr(tracking, "ANSWER_WITHIN_S", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


def test_without_an_answer_wandb_is_offline(tmp_path: Path, host: None) -> None:
    logger: Any = build_logger("wandb", tmp_path)
    assert logger._wandb_init["mode"] == "offline"


def test_a_host_that_answers_anything_is_there(monkeypatch: pytest.MonkeyPatch, signed_in: None) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        assert tracking._answers()


def inspected(run_dir: Path, *options: str) -> str:
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", *options, "--json", str(run_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_wandb_has_one_run_with_its_course_its_results_and_its_samples(tmp_path: Path, signed_in: None) -> None:
    os.environ["WANDB_BASE_URL"] = "http://127.0.0.1:9"  # unreachable; signed_in takes it away again
    folder = tmp_path / "run"
    stream = Stream(partial(build_logger, "wandb", folder, run_id="x"), folder, every_s=0.05)
    summary = run(folder, stream, report_samples=2)

    def last(logger: Logger) -> None:
        rows = sample_rows(folder, ["baseline", "stride"], 5)
        log_summary(logger, summary, samples=rows, config={"model": {"name": "tiny"}})

    assert stream.close(last)
    (run_dir,) = (folder / "wandb").glob("offline-run-*")
    found = json.loads(inspected(run_dir, "--summary"))
    assert found["exit_code"] == 0
    assert found["config"]["model"]["name"] == "tiny"
    assert found["config"]["run"]["versions"]["torch"]
    assert found["config"]["run"]["hardware"]["device"]
    assert found["summary"]["live/records"] == 22
    for row in summary["methods"]:
        assert found["summary"][f"eval/{row['name']}/accuracy"] == row["accuracy"]
        assert found["summary"][f"live/{row['name']}/accuracy"] == pytest.approx(row["accuracy"])
    history = inspected(run_dir)
    assert "live/stride/latency_ms_p95" in history
    for chart in ("accuracy_against_visual_tokens", "accuracy_against_prefill_tflops"):
        (table,) = run_dir.glob(f"files/media/table/{chart}*.table.json")
        assert len(json.loads(table.read_text())["data"]) == 2
    check_samples(staged_table(folder))


def staged_table(folder: Path) -> list[list[Any]]:
    """The table of samples as ``wandb sync`` will upload it, pictures and all; the run's own copy has only text."""
    for path in (folder / "wandb" / "artifacts" / "staging").iterdir():
        with suppress(ValueError):
            content = json.loads(path.read_bytes())
            if isinstance(content, dict) and content.get("columns") == list(SAMPLE_COLUMNS):
                return content["data"]  # type: ignore[no-any-return]
    raise AssertionError("no table of samples is staged")


def check_samples(rows: list[list[Any]]) -> None:
    assert len(rows) == 5
    pruned = dict(zip(SAMPLE_COLUMNS, rows[1], strict=True))
    assert (pruned["sample_id"], pruned["method"], pruned["right_answer"]) == ("q0", "stride", "A")
    assert pruned["image"]["_type"] == "image-file"
    assert list(pruned["image"]["masks"]) == [tracking.KEPT]
    without = dict(zip(SAMPLE_COLUMNS, rows[4], strict=True))
    assert (without["sample_id"] not in ("q0", "q1"), without["image"]) == (True, None)
