from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from lit_simignore.metrics.records import read_json_lines, read_run, to_prediction
from lit_simignore.types import Prediction, UserError


def _row(sample_id: str, method: str = "baseline", **fields: object) -> dict[str, object]:
    return {"sample_id": sample_id, "method": method, "output": "A", "score": 1.0, **fields}


def _write(path: Path, rows: list[dict[str, object]], tail: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")


def test_a_prediction_survives_the_way_through_a_file(tmp_path: Path) -> None:
    record = Prediction(
        "1",
        "simignore",
        "g",
        "prompt\u2028 with a line separator",
        "A",
        output="B",
        choices=["x"],
        kept=[1, 2],
        extra={"budget": {"total": 3}},
    )
    _write(tmp_path / "predictions-0.jsonl", [asdict(record)])
    assert read_run(tmp_path).predictions == {("1", "simignore"): record}


def test_records_of_all_files_are_merged_and_other_files_ignored(tmp_path: Path) -> None:
    _write(tmp_path / "predictions-1.jsonl", [_row("1"), _row("2")])
    _write(tmp_path / "predictions-0.jsonl", [_row("1", "simignore")])
    _write(tmp_path / "other.jsonl", [_row("9")])
    run = read_run(tmp_path)
    assert set(run.predictions) == {("1", "simignore"), ("1", "baseline"), ("2", "baseline")}
    assert run.methods == ("simignore", "baseline")
    assert list(run.of("baseline")) == ["1", "2"]


def test_the_last_good_record_wins_and_errors_lose_in_either_order() -> None:
    rows = [
        _row("1", error="out of memory", score=None),
        _row("1", output="first"),
        _row("1", output="second"),
        _row("1", error="again", score=None),
        _row("2", error="old", score=None),
        _row("2", error="new", score=None),
        _row("3"),
        _row("3"),
    ]
    run = read_run(rows)
    assert run.predictions["1", "baseline"].output == "second"
    assert run.predictions["2", "baseline"].error == "new"
    assert (run.duplicates, run.conflicts) == (2, 1)


@pytest.mark.parametrize("tail", ['{"sample_id": "3", "met', '{"sample_id": "3"', "\0\0\0\0", '"\xff'])
def test_a_torn_last_line_is_skipped_and_counted(tmp_path: Path, tail: str) -> None:
    _write(tmp_path / "predictions-a.jsonl", [_row("1")], tail)
    _write(tmp_path / "predictions-b.jsonl", [_row("2")])
    run = read_run(tmp_path)
    assert len(run.predictions) == 2
    assert run.torn == 1


def test_every_byte_at_which_a_writer_can_die_leaves_the_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "predictions-a.jsonl"
    whole = "".join(json.dumps(_row(str(i), output="ü")) + "\n" for i in range(3)).encode()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        tail = whole[:size].rpartition(b"\n")[2]
        # A cut right before the line feed loses nothing.
        survives = tail.endswith(b"}")
        run = read_run(path)
        assert len(run.predictions) == whole[:size].count(b"\n") + survives
        assert run.torn == (bool(tail) and not survives)


def test_a_broken_line_before_the_last_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "predictions-a.jsonl"
    path.write_text('{"sample_id": "1", "method": "m"}\n\nbroken\n{"sample_id": "2", "method": "m"}\n')
    with pytest.raises(UserError, match=r"predictions-a\.jsonl, line 3: "):
        read_run(tmp_path)


def test_strict_reading_refuses_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n[1]')
    with pytest.raises(UserError, match="line 2.*list"):
        read_json_lines(path)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1"):
        read_json_lines(path)


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert read_json_lines(path).rows == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    "fields",
    [
        {"score": 1.5},
        {"score": float("nan")},
        {"score": "1"},
        {"score": 10**400},
        {"sample_id": 3},
        {"method": ""},
        {"output": None},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"^here: .*{next(iter(fields))}"):
        to_prediction(_row("1") | fields, "here: ")


def test_keys_of_newer_versions_are_ignored() -> None:
    assert to_prediction(_row("1", from_the_future=1)).sample_id == "1"


def test_a_place_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predictions-"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="absent"):
        read_run(tmp_path / "absent")
