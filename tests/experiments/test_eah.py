"""The script that measures EAH runs, and the memory that it reads follows the chunk."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(load_script) -> ModuleType:
    return load_script("performance/eah")


def test_the_table_has_a_line_per_method_and_is_written_where_asked(script, tmp_path, capsys) -> None:
    script.main(["--size", "tiny", "--visual", "36", "--rounds", "1", "--write", str(tmp_path / "out.md")])
    page = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert page.strip() == capsys.readouterr().out.strip()
    assert all(f"| 36 | {name} |" in page for name in script.METHODS)


def test_memory_grows_with_the_chunk_and_not_with_the_square_of_the_length(script) -> None:
    size = script.SHAPES["tiny"]
    small, twice = (script.choice_mib(size, 1024, 900, chunk) for chunk in (64, 128))
    longer = script.choice_mib(size, 2048, 1800, 64)
    assert 1.5 < twice / small < 2.5
    assert 1.5 < longer / small < 2.5
