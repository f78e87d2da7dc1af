"""Options chosen by their likelihood, through the command, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_simignore import cli
from lit_simignore.benchmarks._scoring import Scoring
from lit_simignore.benchmarks.jsonl import JsonLinesBenchmark
from lit_simignore.benchmarks.scienceqa import ScienceQA
from lit_simignore.benchmarks.seedbench import SEEDBench
from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.types import Candidates
from tests.benchmarks.official_layouts import scienceqa, seedbench


def _records(folder: Path, *settings: str) -> list[dict[str, Any]]:
    return _run(folder, "benchmark=seedbench", f"benchmark.path={folder}", *settings)


def _run(folder: Path, *settings: str) -> list[dict[str, Any]]:
    code = cli.eval_main(
        ["model=pico", "methods=[baseline,simignore@num_keep=20]", f"run.dir={folder}/runs", "efficiency.samples=0",
         "report.samples=0", "trainer.accelerator=cpu", "trainer.progress=false", "trainer.batch_size=3", *settings]
    )  # fmt: skip
    assert code == 0
    return [json.loads(line) for file in folder.glob("runs/*/predictions-*") for line in file.open()]


@pytest.mark.parametrize(
    "scoring",
    [
        "likelihood-text",
        pytest.param("likelihood", marks=pytest.mark.slow),
        pytest.param("likelihood-text-mean", marks=pytest.mark.slow),
    ],
)
def test_every_question_gets_the_letter_of_its_most_likely_option(tmp_path: Path, scoring: str) -> None:
    seedbench(tmp_path)
    records = _records(tmp_path, f"benchmark.scoring={scoring}")
    assert len(records) == 10 and not any(record["error"] for record in records)
    for record in records:
        log_probs = record["extra"]["log_probs"]
        assert len(log_probs) == 4 and max(log_probs) < 0
        assert record["parsed"] == record["output"] and record["output"] in "ABCD"
        if not scoring.endswith("mean"):
            assert record["output"] == "ABCD"[log_probs.index(max(log_probs))]
    assert {record["num_kept"] for record in records if record["method"] != "baseline"} == {20}


def test_scoring_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    made = {scoring: SEEDBench(**seedbench(tmp_path), scoring=scoring) for scoring in _scorings()}
    assert len({json.dumps(benchmark.identity()) for benchmark in made.values()}) == len(made)


def _scorings() -> list[Scoring]:
    return list(Scoring)


def test_candidates_are_letters_or_texts_named_by_letters(tmp_path: Path) -> None:
    generate, letter, text, mean = (ScienceQA(**scienceqa(tmp_path), scoring=scoring) for scoring in _scorings())
    sample = generate.load()[0]
    assert generate.candidates(sample) is None
    assert letter.candidates(sample) == Candidates(("A", "B", "C"), ("A", "B", "C"))
    assert text.candidates(sample) == Candidates(("A", "B", "C"), ("this", "that", "both"))
    assert mean.candidates(sample) == Candidates(("A", "B", "C"), ("this", "that", "both"), per_token=True)


def test_questions_with_options_are_chosen_and_others_written_whoever_shares_their_batch(tmp_path: Path) -> None:
    settings = ("benchmark=shapesqa", "benchmark.num_scenes=3", "benchmark.scoring=likelihood", "methods=[baseline]")
    mixed = {record["sample_id"]: record for record in _run(tmp_path / "mixed", *settings)}
    alone = {record["sample_id"]: record for record in _run(tmp_path / "alone", *settings, "trainer.batch_size=1")}
    assert len(mixed) == len(alone) > 6 and not any(record["error"] for record in mixed.values())
    assert {name: record["output"] for name, record in mixed.items()} == {
        name: record["output"] for name, record in alone.items()
    }
    for record in mixed.values():
        assert ("log_probs" in record["extra"]) == bool(record["choices"])
        if record["choices"]:
            log_probs = record["extra"]["log_probs"]
            assert record["parsed"] == "ABCDE"[log_probs.index(max(log_probs))]
    assert {bool(record["choices"]) for record in mixed.values()} == {True, False}


def test_own_questions_and_the_bundled_ones_have_candidates_where_they_have_options(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "image": [], "question": "Which?", "choices": ["this", "that"], "answer": "B"},
        {"id": "2", "image": [], "question": "Which colour?", "answer": "red"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = {scoring: JsonLinesBenchmark(path=str(path), scoring=scoring) for scoring in Scoring}
    choice, free = mine[Scoring.TEXT].load()
    assert [mine[scoring].candidates(choice) for scoring in Scoring] == [
        None,
        Candidates(("A", "B"), ("A", "B")),
        Candidates(("A", "B"), ("this", "that")),
        Candidates(("A", "B"), ("this", "that"), per_token=True),
    ]
    assert {mine[scoring].candidates(free) for scoring in Scoring} == {None}
    for made in (mine, {scoring: ShapesQA(scoring=scoring) for scoring in Scoring}):
        assert len({json.dumps(benchmark.identity()) for benchmark in made.values()}) == len(Scoring)
