"""Data files of every kind, good and bad."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_simignore.benchmarks._names import metric_name
from lit_simignore.benchmarks._protocols import full_name
from lit_simignore.benchmarks._rows import Row, read_rows
from lit_simignore.benchmarks.mmstar import MMStar
from lit_simignore.benchmarks.textvqa import TextVQA
from lit_simignore.types import UserError
from tests.benchmarks.official_layouts import mmstar, write_parquet


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"x": "1"}\n{"x": "2"}\n'),
        ("a.json", b'\xef\xbb\xbf{"x": "1"}\n\n{"x": "2"}'),
        ("a.json", b' [{"x": "1"}, {"x": "2"}]'),
        ("a.tsv", b"x\ty\n1\t\n2\t\n"),
        ("a.tsv", b'\xef\xbb\xbfy\tx\r\n"a\tb\n"\t1\r\n\t2\r\n'),
    ],
)
def test_every_format_gives_the_same_records(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row.need("x") for row in read_rows(tmp_path / name)] == ["1", "2"]


def test_a_parquet_file_gives_them_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"x": "1"}, {"x": "2"}])
    assert [row.need("x") for row in read_rows(tmp_path / "a.parquet")] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"x": 1}\n[2]', "a.jsonl, line 2: expected one JSON object per line"),
        ("a.json", b'[{"x": 1}, 2]', "a.json, item 1: expected an object; got a int"),
        ("a.json", b"[1", "a.json is not valid JSON"),
        ("a.json", b"[" * 100_000, "a.json is not valid JSON"),
        ("a.tsv", b"x\ty\n1\t2\n1\n", "a.tsv, row 1: expected 2 tab-separated columns"),
        ("a.tsv", b"x\ty\n1\t2\t3\n", "a.tsv, row 0: expected 2 tab-separated columns"),
        ("a.tsv", b"x\n\xff\n", "a.tsv is not a tab-separated table in UTF-8"),
        ("a.csv", b"x\n1\n", "expected .jsonl, .json, .tsv or .parquet"),
        ("a.parquet", b"PAR1", "cannot read a.parquet"),
    ],
)
def test_a_broken_file_is_one_readable_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_column_names_what_was_expected_and_what_is_there() -> None:
    row = Row("f, line 1: ", {"text": "x", "empty": "", "nan": float("nan"), "list": [1, 2], "none": None})
    assert (row.need("question", "text"), row.get("empty", "nan", "none"), row.text("absent")) == ("x", None, "")
    assert row.strings("list") == ["1", "2"]
    with pytest.raises(UserError, match="^f, line 1: expected a or b; found text, empty, nan, list, none$"):
        row.need("a", "b")
    with pytest.raises(UserError, match="expected a list as text; got 'x'"):
        row.strings("text")


def test_tables_need_the_extra_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = mmstar(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"reading mmstar.parquet needs the package datasets.*\[benchmarks\]"):
        MMStar(**fields).load()


def test_pictures_of_a_table_are_not_decoded_on_loading(tmp_path: Path) -> None:
    row = {"index": 0, "question": "?\nOptions: A: x, B: y", "answer": "A", "category": "math"}
    write_parquet(tmp_path / "val-0.parquet", [{**row, "image": {"bytes": b"no picture", "path": None}}])
    (sample,) = MMStar(path=str(tmp_path)).load()
    draw = sample.images[0]
    assert callable(draw)
    with pytest.raises(OSError, match="cannot identify image"):
        draw()


def test_bytes_that_no_table_calls_a_picture_are_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.benchmarks.official_layouts import as_cell

    row = {"index": 0, "question": "?\nOptions: A: x, B: y", "answer": "A", "category": "math", "image": as_cell(4)}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list([row]).to_parquet(str(tmp_path / "data" / "val-0.parquet"))
    (sample,) = MMStar(path=str(tmp_path)).load()
    draw = sample.images[0]
    assert callable(draw) and draw().size == (52, 40)


def test_a_table_on_the_hub_cannot_name_files_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    row = {"index": 0, "question": "?\nOptions: A: x, B: y", "answer": "A", "category": "math", "image": "secret.png"}
    rows = {"question_id": 7, "image_id": "../a", "question": "what?", "answers": ["x"], "ocr_tokens": []}
    tables = [datasets.Dataset.from_list([each]) for each in (row, rows)]
    hub = SimpleNamespace(load_dataset=lambda *_, **__: tables[0])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.chdir(tmp_path)
    (sample,) = MMStar(path="owner/name").load()
    draw = sample.images[0]
    assert callable(draw)
    with pytest.raises(UserError, match="row 0 has no picture in column image"):
        draw()
    hub.load_dataset = lambda *_, **__: tables[1]
    with pytest.raises(UserError, match="row 0: expected a picture; got the name of a file: set benchmark.images"):
        TextVQA(path="owner/name").load()
    with pytest.raises(UserError, match="row 0: expected a path inside"):
        TextVQA(path="owner/name", images=str(tmp_path)).load()


def test_names_of_numbers_and_protocols() -> None:
    assert metric_name("Fine-grained perception", "acc") == "fine_grained_perception_acc"
    assert metric_name("2 options") == "n_2_options"
    known = dict.fromkeys(("llava/1", "llava/2", "llava/10", "pope/1"))
    assert full_name("llava", known) == "llava/10"
    assert full_name("llava/1", known) == "llava/1"
    with pytest.raises(UserError, match="valid: llava/1, llava/2, llava/10, pope/1"):
        full_name("llava/3", known)
