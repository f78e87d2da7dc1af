"""The script that compares batch sizes counts texts that differ, not only scores."""

from __future__ import annotations

from types import ModuleType

import pytest

from lit_simignore.metrics.compare import compare
from lit_simignore.types import Prediction


@pytest.fixture(scope="module")
def script(load_script) -> ModuleType:
    return load_script("reliability/batch_sizes")


@pytest.mark.slow
def test_in_float32_no_answer_of_pico_depends_on_the_batch(script: ModuleType, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(script, "SIZES", (1, 4))
    script.main(["--samples", "6", "--write", str(tmp_path / "out.md")])
    page = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert page.strip() in capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| float32")]
    assert len(rows) == len(script.METHODS) * 2
    assert all(row[4].strip() == "0 of 6" and row[5].strip() == "0/0" for row in rows)


def test_another_text_with_the_same_score_is_counted(script: ModuleType) -> None:
    def run(texts: list[str]) -> list[Prediction]:
        return [Prediction(f"s{n}", "baseline", "g", "p", "A", output=text, score=1.0) for n, text in enumerate(texts)]

    found = compare(run(["A", "A", "A"]), run(["A", "A.", "A"]), "baseline", "baseline")
    assert script.line("bfloat16", 4, "baseline", found) == "| bfloat16 | baseline | 4 | 100.0 | 1 of 3 | 0/0 | 1.000 |"
