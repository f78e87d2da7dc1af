"""The script that fills the experiments' folders, on made-up records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lit_simignore.metrics.records import Run
from lit_simignore.types import Prediction, UserError


@pytest.fixture(scope="module")
def tables(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tables")


def record(method: str, number: int, score: float) -> Prediction:
    kind = "color" if number % 2 else f"existence-{number % 3}"
    kept, group = [0, 1, 2, 5, number + 6], f"g{number // 2}"
    return Prediction(f"s{number:02d}", method, group, prompt="", answer="A", score=score, kind=kind, kept=kept)


def run_of(**scores: Callable[[int], float]) -> Run:
    run = Run()
    for name, score in scores.items():
        for number in range(20):
            run.add(record(name.replace("_and_", "+").replace("_at_", "@"), number, score(number)))
    return run


def test_interaction_is_both_less_each_plus_neither(tables: Any) -> None:
    run = run_of(
        baseline=lambda n: 1.0,
        a=lambda n: float(n % 4 > 0),
        b=lambda n: float(n % 5 > 0),
        a_and_b=lambda n: float(n % 2),
    )
    # 20 samples: 1.00, 0.75, 0.80 and 0.50 right
    found = tables.interaction(run, "a+b")
    assert found.value == pytest.approx(0.50 - 0.75 - 0.80 + 1.00)
    assert found.low < found.value < found.high
    (line,) = [line for line in tables.interaction_table(run) if line.startswith("| a+b")]
    assert line.startswith("| a+b | -25.0 | -20.0 | -50.0 | -5.0 (")


def test_what_adds_up_exactly_has_an_interaction_of_zero_and_no_width(tables: Any) -> None:
    run = run_of(
        baseline=lambda n: 1.0, a=lambda n: float(n > 4), b=lambda n: float(n < 15), a_and_b=lambda n: float(4 < n < 15)
    )
    assert tuple(tables.interaction(run, "a+b")) == (0.0, 0.0, 0.0)
    assert tables.interaction_table(run_of(baseline=lambda n: 1.0, a_and_b=lambda n: 1.0)) == []


def test_simignore_meets_random_at_the_same_settings_alone(tables: Any) -> None:
    run = run_of(
        baseline=lambda n: 1.0, simignore_at_9=lambda n: float(n % 2), random_at_9=lambda n: 1.0,
        simignore_at_7=lambda n: 1.0, simignore_at_0=lambda n: 0.0, random_at_0=lambda n: 0.0,
    )  # fmt: skip
    lines = [line for line in tables.rival_table(run) if line.startswith("| simignore")]
    assert len(lines) == 1 and lines[0].startswith("| simignore@9 | random@9 | -50.0 (") and "| 0/10 |" in lines[0]


def test_kinds_of_existence_are_one_kind(tables: Any) -> None:
    run = run_of(baseline=lambda n: float(n % 2))
    assert "| method | color (10) | existence (10) |" in tables.kind_table(run)
    assert "| baseline | 100.0 | 0.0 |" in tables.kind_table(run)


@pytest.mark.parametrize(("indices", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 7, 9, 10], "0-2,7,9-10")])
def test_kept_tokens_are_written_as_ranges(tables: Any, indices: list[int], text: str) -> None:
    assert tables.ranges(indices) == text


def saved(folder: Path, run: Run, complete: bool = True) -> Path:
    folder.mkdir()
    fields = ("sample_id", "method", "group_id", "prompt", "answer", "score", "kind", "kept")
    rows = [{name: getattr(each, name) for name in fields} for each in run.predictions.values()]
    (folder / "predictions-0001-r00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spent = {"input": 9, "final": 9, "layer_mean": 9, "prefill_tflops": 0.001}
    methods = [
        {"name": name, "accuracy": 0.5, "ci_low": 0.4, "ci_high": 0.6, "p_value": None, "needed_recall": None,
         "budget": spent, "extra": {"f1": 0.25}}
        for name in run.methods
    ]  # fmt: skip
    about = {
        "complete": complete, "command": "eval.py experiment=some model=pico trainer.progress=false", "num_samples": 20,
        "created": "2026-01-02T03:04:05", "model": "pico", "hardware": {"cpu": "a CPU"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({"run": about, "methods": methods}))
    return folder


def test_a_run_goes_into_its_folder_between_the_marks(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    run = saved(tmp_path / "run", run_of(baseline=lambda n: float(n % 2), a=lambda n: 0.5))
    assert tables.overlay_of(run) == "some"
    readme = tmp_path / "some" / "README.md"
    readme.parent.mkdir()
    readme.write_text("before\n<!-- pico -->\nold\n<!-- pico -->\nafter\n")
    tables.write(run, "some")
    text = readme.read_text()
    assert text.startswith(
        "before\n<!-- pico -->\n\n`python eval.py experiment=some model=pico`, 2026-01-02: pico, 20 samples"
    )
    assert (
        text.endswith("<!-- pico -->\nafter\n") and "old" not in text and "| baseline | 50.0 (40.0 to 60.0) |" in text
    )
    assert "| baseline | 25.0 |" in text
    kept = json.loads((readme.parent / "pico.json").read_text())
    assert kept["scores"] == {"baseline": "01" * 10, "a": "p" * 20} and kept["samples"][:2] == ["s00", "s01"]
    assert kept["kept"] == {
        "s00": {"baseline": "0-2,5-6", "a": "0-2,5-6"},
        "s01": {"baseline": "0-2,5,7", "a": "0-2,5,7"},
    }
    tables.write(run, "some")  # again: the same
    assert readme.read_text() == text


def test_clusters_left_out_are_counted_apart_for_right_and_wrong_answers(tables: Any, tmp_path: Path) -> None:
    run = run_of(baseline=lambda n: float(n % 2))
    assert tables.cluster_table(run, tmp_path) == []

    def tried(sample: str, *verdicts: str) -> dict[str, Any]:
        sets = [[], [0], [1], [0, 1]]
        return {
            "sample_id": sample,
            "ablation": [{"clusters": c, "verdict": v} for c, v in zip(sets, ("", *verdicts), strict=True)],
        }

    listed = [tried("s00", "spy", "neutral", "spy"), tried("s01", "needed", "neutral", "neutral")]
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "flow.json").write_text(json.dumps({"parts": {"samples": {"samples": listed}}}))
    lines = tables.cluster_table(run, tmp_path)
    assert "| right | 1 | 2 | 1 | 50.0 |" in lines and "| right | 2 | 1 | 0 | 0.0 |" in lines
    assert "| wrong | 1 | 2 | 1 | 50.0 |" in lines and "| wrong | 2 | 1 | 1 | 100.0 |" in lines


def test_what_is_not_finished_or_has_no_place_is_refused(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    run = saved(tmp_path / "run", run_of(baseline=lambda n: 1.0))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "README.md").write_text("nothing\n")
    with pytest.raises(UserError, match="expected <!-- pico --> twice"):
        tables.write(run, "some")
    with pytest.raises(UserError, match="not complete"):
        tables.page(saved(tmp_path / "half", run_of(baseline=lambda n: 1.0), complete=False))
