"""Whole runs on the tiny model: interrupted, continued, extended, shared between processes. The folder tells."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_simignore.engine import store as store_module
from lit_simignore.engine.evaluate import TimingPlan, evaluate
from lit_simignore.engine.store import PredictionStore
from lit_simignore.metrics.records import read_run
from lit_simignore.types import Method, Sample, UserError
from tests.engine.toys import BASELINE, RANDOM, STRIDE, Toy, lines, model_and_processor, settings, without_time

METHODS = (BASELINE, STRIDE, RANDOM)


def run(folder: Path, *methods: Method, benchmark: Toy | None = None, **changes: Any) -> dict[str, Any]:
    model, processor = model_and_processor()
    return evaluate(model, processor, benchmark or Toy(), methods or METHODS, folder, settings(**changes))


def after(count: int, act: Callable[[], None]) -> Callable[[str, Sample], None]:
    """Acts when the ``count``-th output is parsed."""
    seen: list[str] = []

    def on_parse(output: str, sample: Sample) -> None:
        seen.append(output)
        if len(seen) == count:
            act()

    return on_parse


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a run that nothing happened to."""
    return run(tmp_path_factory.mktemp("whole"))


def test_the_run_folder_holds_the_answers_and_their_summary(tmp_path: Path) -> None:
    summary = run(tmp_path, report_samples=2, efficiency=TimingPlan(samples=2, repeats=1, decode_tokens=2))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["run"]["complete"] is True
    assert summary["run"]["num_samples"] == 11
    assert [row["name"] for row in summary["methods"]] == ["baseline", "stride", "random"]
    assert all(row["n"] == 11 and row["efficiency"]["prefill_ms"] > 0 for row in summary["methods"])
    assert lines(tmp_path) == 33
    index = json.loads((tmp_path / "media" / "index.json").read_text())
    assert list(index) == ["q0", "q1"]
    (picture,) = index["q0"]
    assert (picture["rows"], picture["cols"]) == (4, 4)
    assert (tmp_path / picture["file"]).is_file()
    records = read_run(tmp_path).predictions
    assert len(records["q0", "stride"].kept or ()) == records["q0", "stride"].num_kept == 4
    assert records["q5", "stride"].kept is None
    efficiency = json.loads((tmp_path / "efficiency.json").read_text())
    assert efficiency["batch_size"] == 1
    assert efficiency["device"]


def test_running_it_again_computes_nothing(tmp_path: Path) -> None:
    timing = TimingPlan(samples=1, repeats=1, decode_tokens=1)
    first = run(tmp_path, efficiency=timing)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "summary.json"}
    assert run(tmp_path, efficiency=timing) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "summary.json"} == before


@pytest.mark.parametrize("count", [1, 2, 14, 27, 33])
def test_an_interrupted_run_goes_on_to_the_same_summary(tmp_path: Path, whole: dict[str, Any], count: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, benchmark=Toy(on_parse=after(count, interrupt)))
    partial = json.loads((tmp_path / "summary.json").read_text())
    assert partial["run"]["complete"] is False
    kept = lines(tmp_path)
    assert count - 4 <= kept < count
    continued = run(tmp_path)
    assert without_time(continued) == without_time(whole)
    assert lines(tmp_path) == 33


def test_sigterm_ends_it_at_once_with_143_and_everything_kept(tmp_path: Path, whole: dict[str, Any]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, benchmark=Toy(on_parse=after(10, kill(signal.SIGTERM))))
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert 4 <= lines(tmp_path) < 10
    assert json.loads((tmp_path / "summary.json").read_text())["run"]["complete"] is False
    assert without_time(run(tmp_path)) == without_time(whole)


def test_ctrl_c_leaves_the_keyboard_working(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, benchmark=Toy(on_parse=after(2, kill(signal.SIGINT))))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def in_a_child(act: Callable[[], object]) -> int:
    """Run something in a forked process; the signal that ended it, 0 if none did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking while threads exist
        child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_kill_9_and_a_torn_line_lose_one_batch_at_most(
    tmp_path: Path, whole: dict[str, Any], one_thread: None
) -> None:
    dying = Toy(on_parse=after(20, kill(signal.SIGKILL)))
    assert in_a_child(lambda: run(tmp_path, benchmark=dying)) == signal.SIGKILL
    assert not (tmp_path / "summary.json").exists()
    assert lines(tmp_path) == 16
    (torn,) = tmp_path.glob("predictions-*.jsonl")
    torn.write_bytes(torn.read_bytes()[:-30])
    again = Toy(on_parse=after(10, kill(signal.SIGKILL)))
    assert in_a_child(lambda: run(tmp_path, benchmark=again)) == signal.SIGKILL
    assert without_time(run(tmp_path)) == without_time(whole)


def test_two_processes_answer_101_of_101_and_agree_with_one(tmp_path: Path, one_thread: None) -> None:
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    two = run(shared, BASELINE, STRIDE, benchmark=Toy(size=101), devices=2, strategy="ddp_fork")
    one = run(alone, BASELINE, STRIDE, benchmark=Toy(size=101))
    assert [row["n"] for row in two["methods"]] == [101, 101]
    assert lines(shared) == 202
    assert len(list(shared.glob("predictions-*.jsonl"))) == 2
    assert without_time(two) == without_time(one)


def test_more_processes_than_samples_is_no_problem(tmp_path: Path, one_thread: None) -> None:
    summary = run(tmp_path, BASELINE, benchmark=Toy(size=2), batch_size=1, devices=3, strategy="ddp_fork")
    assert summary["methods"][0]["n"] == 2
    assert lines(tmp_path) == 2
    assert not (tmp_path / ".nonce").exists()


def test_a_folder_that_a_process_does_not_share_is_refused_before_anything_is_computed(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, own = PredictionStore.sees, tmp_path / "own"
    own.mkdir()
    (own / ".nonce").write_text("of an earlier attempt")

    def sees(store: PredictionStore, nonce: str) -> bool:
        return real(PredictionStore(own) if torch.distributed.get_rank() == 1 else store, nonce)

    monkeypatch.setattr(PredictionStore, "sees", sees)
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.2)
    with pytest.raises(Exception, match="does not see the run folder .* set run.dir to a place on a shared"):
        run(tmp_path / "shared", BASELINE, devices=2, strategy="ddp_fork")
    assert lines(tmp_path / "shared") == 0


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, whole: dict[str, Any], one_thread: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, benchmark=Toy(on_parse=after(9, interrupt)))
    assert without_time(run(tmp_path, devices=2, strategy="ddp_fork")) == without_time(whole)
    assert lines(tmp_path) == 33


def test_processes_that_torchrun_started_in_vain_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**started, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="2 processes were started .* make 1, so each would answer everything"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_corrupt_image_is_one_error_and_is_tried_again(tmp_path: Path, whole: dict[str, Any]) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG nothing")
    mended = Toy().load()[3]

    def spoil(sample: Sample) -> Sample:
        return dataclasses.replace(sample, images=(bad,)) if sample.sample_id == "q3" else sample

    folder = tmp_path / "run"
    summary = run(folder, benchmark=Toy(change=spoil))
    assert summary["run"]["complete"] is True
    assert [(row["n"], row["errors"]) for row in summary["methods"]] == [(10, 1)] * 3
    record = read_run(folder).predictions["q3", "stride"]
    assert str(bad) in str(record.error)
    mended.images[0].save(bad)  # type: ignore[union-attr]
    again = run(folder, benchmark=Toy(change=spoil))
    assert [(row["n"], row["errors"]) for row in again["methods"]] == [(11, 0)] * 3
    assert lines(folder) == 36
    assert {row["accuracy"] for row in again["methods"]} == {row["accuracy"] for row in whole["methods"]}


def test_a_model_that_computes_no_numbers_is_all_errors_and_no_score(tmp_path: Path) -> None:
    model, processor = model_and_processor()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    summary = evaluate(model, processor, Toy(), (BASELINE, STRIDE), tmp_path, settings())
    assert summary["run"]["complete"] is True
    assert [(row["n"], row["errors"], row["accuracy"]) for row in summary["methods"]] == [(0, 11, None)] * 2
    assert all("NaN" in str(record.error) for record in read_run(tmp_path).predictions.values())


def test_adding_a_method_computes_only_that_one(tmp_path: Path, whole: dict[str, Any]) -> None:
    asked: list[str] = []
    run(tmp_path, BASELINE, STRIDE)
    summary = run(tmp_path, benchmark=Toy(on_parse=lambda output, sample: asked.append(sample.sample_id)))
    assert len(asked) == 11
    assert without_time(summary) == without_time(whole)
    fewer = run(tmp_path, BASELINE, RANDOM)
    assert [row["name"] for row in fewer["methods"]] == ["baseline", "random"]


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"decoding\.max_new_tokens: 3 -> 5.*overwrite=true"):
        run(tmp_path, max_new_tokens=5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run(tmp_path, max_new_tokens=5, overwrite=True)["run"]["complete"]
    assert lines(tmp_path) == 33


def test_a_restarted_process_does_not_overwrite_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, benchmark=Toy(on_parse=after(20, interrupt)), overwrite=True)
    kept = lines(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    asked: list[str] = []
    run(tmp_path, benchmark=Toy(on_parse=lambda output, sample: asked.append(output)), overwrite=True)
    # at most one batch of three methods is asked again
    assert 33 - kept <= len(asked) <= 33 - kept + 4
    assert lines(tmp_path) == 33


def test_questions_that_changed_under_a_run_are_refused(tmp_path: Path) -> None:
    run(tmp_path, BASELINE)
    other = Toy(change=lambda sample: dataclasses.replace(sample, answer="B"))
    with pytest.raises(UserError, match="the data changed since this run began: sample 'q"):
        run(tmp_path, BASELINE, STRIDE, benchmark=other)
    assert lines(tmp_path) == 11


def test_a_full_disk_stops_with_one_line_and_the_run_goes_on_later(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        fill()
        with pytest.raises(UserError, match="cannot write .*predictions-0001-r00000.jsonl: File too large"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert read_run(tmp_path).torn == 0
    assert lines(tmp_path) >= 4
    assert without_time(run(tmp_path)) == without_time(whole)


def test_a_method_that_does_not_fit_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attach takes"):
        run(tmp_path / "new", BASELINE, Method("odd", (TimingPlan(),)))
    assert not (tmp_path / "new").exists()
