"""Records survive whatever ends the process, and a folder never mixes two runs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lit_simignore.engine.fingerprint import Fingerprint
from lit_simignore.engine.store import PredictionStore, answered, check_same_data, pending_samples
from lit_simignore.types import Prediction, Role, Sample, Segment, UserError

RUN = {"model": {"name": "tiny", "weights": "aa"}, "decoding": {"max_new_tokens": 3}}
SIMIGNORE = {"parts": [{"class": "Simignore", "num_keep": 32}]}
ONE = Fingerprint(RUN, {"baseline": {"parts": []}, "simignore": SIMIGNORE})


def prediction(sample: str, method: str = "baseline", output: str = "yes", error: str | None = None) -> Prediction:
    return Prediction(sample, method, "", f"question {sample}", "A", output=output, error=error)


def begun(folder: Path, fingerprint: Fingerprint = ONE, rank: int = 0) -> PredictionStore:
    store = PredictionStore(folder)
    store.open(store.prepare(fingerprint), rank)
    return store


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.append([prediction("a"), prediction("b", output="\ud800 \u2028 é")])
    store.append([prediction("a", "simignore", error="NaN")])
    found = store.read().predictions  # while the file is still open
    store.close()
    assert list(found) == [("a", "baseline"), ("b", "baseline"), ("a", "simignore")]
    assert found["b", "baseline"].output == "\ud800 \u2028 é"
    assert found["a", "simignore"].attempt == "0001-r0of1"
    done = answered(store.read(), ["baseline", "simignore"])
    assert done == {("a", "baseline"): True, ("b", "baseline"): True, ("a", "simignore"): False}


def test_an_attempt_writes_files_of_its_own_and_later_ones_win(tmp_path: Path) -> None:
    for output in ("first", "second"):
        store = begun(tmp_path)
        store.append([prediction("a", output=output)])
        store.close()
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl"))] == [
        "predictions-0001-r00000.jsonl",
        "predictions-0002-r00000.jsonl",
    ]
    assert store.read().predictions["a", "baseline"].output == "second"


def test_a_process_killed_while_writing_loses_only_that_record(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.append([prediction("a"), prediction("b")])
    store.close()
    path = tmp_path / "predictions-0001-r00000.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert ("a", "baseline") in PredictionStore(tmp_path).read().predictions
    again = begun(tmp_path)
    again.append([prediction("b", output="again")])
    assert [record.output for record in again.read().predictions.values()] == ["yes", "again"]


def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begun(tmp_path)
    store.append([prediction("a")])
    real = os.write
    calls: list[int] = []

    def nearly_full(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(UserError, match="No space left on device; what was computed before is kept") as caught:
        store.append([prediction("b")])
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    run = store.read()
    assert list(run.predictions) == [("a", "baseline")]
    assert run.torn == 0
    store.append([prediction("b")])
    assert len(store.read().predictions) == 2


def test_another_run_in_the_folder_is_refused_by_the_names_of_what_differs(tmp_path: Path) -> None:
    begun(tmp_path).close()
    other = Fingerprint({**RUN, "decoding": {"max_new_tokens": 5}, "dtype": "bfloat16"}, ONE.methods)
    with pytest.raises(UserError) as caught:
        PredictionStore(tmp_path).check(other)
    message = str(caught.value)
    assert "decoding.max_new_tokens: 3 -> 5" in message
    assert "dtype: (none) -> bfloat16" in message
    assert "model" not in message
    assert "overwrite=true" in message
    assert "run.name" in message


def test_a_changed_method_is_refused_and_a_new_one_is_added(tmp_path: Path) -> None:
    begun(tmp_path).close()
    changed = {"simignore": {"parts": [{"class": "Simignore", "num_keep": 64}]}}
    with pytest.raises(UserError, match=r"method\.simignore\.num_keep: 32 -> 64"):
        PredictionStore(tmp_path).check(Fingerprint(RUN, changed))
    begun(tmp_path, Fingerprint(RUN, {"fastv": {"parts": []}})).close()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["methods"]) == ["baseline", "simignore", "fastv"]


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.append([prediction("a")])
    store.close()
    (tmp_path / "media").mkdir()
    for name in ("summary.json", "media/x.png", "config.yaml", "notes.txt", "media/holiday.jpg"):
        (tmp_path / name).write_text("x")
    assert store.prepare(Fingerprint({"other": 1}, {}), overwrite=True) == 1
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"manifest.json", "config.yaml", "notes.txt", "media/holiday.jpg"}


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 9, "run": {}, "methods": {}}'])
def test_a_manifest_that_is_none_is_refused_with_advice(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="overwrite=true"):
        PredictionStore(tmp_path).check(ONE)


def test_predictions_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions-0001-r00000.jsonl").write_text("")
    with pytest.raises(UserError, match="without a manifest.json"):
        PredictionStore(tmp_path).check(ONE)


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    store = begun(tmp_path)
    with pytest.raises(UserError, match="another process"):
        PredictionStore(tmp_path).open(1, 0)
    store.close()


def test_processes_of_one_attempt_have_files_of_their_own(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path)
    attempt = store.prepare(ONE)
    for rank in range(2):
        each = PredictionStore(tmp_path)
        each.open(attempt, rank, 2)
        each.append([prediction(f"s{rank}")])
        each.close()
    assert {record.attempt for record in store.read().predictions.values()} == {"0001-r0of2", "0001-r1of2"}


def test_a_file_without_records_is_not_left_behind(tmp_path: Path) -> None:
    begun(tmp_path).close()
    assert not list(tmp_path.glob("*.jsonl"))


def sample(name: str, prompt: str, answer: str = "A") -> Sample:
    return Sample(name, (Segment(prompt, Role.QUESTION),), answer=answer)


def test_a_sample_is_pending_until_every_method_has_a_good_record() -> None:
    samples = [sample(name, "?") for name in "abc"]
    done = {("a", "x"): True, ("a", "y"): True, ("b", "x"): True, ("b", "y"): False}
    assert pending_samples(samples, ["x", "y"], done) == ["b", "c"]
    assert pending_samples(samples, ["x"], done) == ["c"]


def test_data_that_changed_under_a_run_are_noticed(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.append([prediction("a")])
    store.close()
    check_same_data(store.read(), [sample("a", "question a"), sample("new", "?")])
    for changed in (sample("a", "question b"), sample("a", "question a", "B")):
        with pytest.raises(UserError, match="the data changed since this run began: sample 'a'"):
            check_same_data(store.read(), [changed])
