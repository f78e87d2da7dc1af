"""Every benchmark once through the command, with the bundled model: answers are there, counted and summed up.

Its vocabulary is tiny and it has seen nothing but shapes: the answers mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_simignore import cli
from lit_simignore.benchmarks import BENCHMARKS
from tests.benchmarks.official_layouts import LAYOUTS

ALWAYS = ("chair", "mmbench", "pope", "textvqa")
"""One of each kind is enough for the default run."""


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in sorted(LAYOUTS)]
)
def test_the_command_answers_the_official_layout(name: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    fields = LAYOUTS[name](data)
    settings = [f"benchmark.{key}={value}" for key, value in fields.items()]
    code = cli.eval_main(
        [f"benchmark={name}", *settings, "model=pico", "methods=[baseline]", f"run.dir={tmp_path}", "run.name=run",
         "efficiency.samples=0", "report.samples=2", "trainer.accelerator=cpu", "trainer.progress=false",
         "trainer.max_new_tokens=4"]
    )  # fmt: skip
    assert code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (row,) = summary["methods"]
    samples = BENCHMARKS()[name](**fields).load()
    assert summary["run"]["num_samples"] == len(samples) and summary["run"]["complete"]
    assert row["errors"] == 0
    assert row["n"] == sum(sample.answer is not None for sample in samples)
    assert set(summary["run"]["headline"]) - {"circular_accuracy"} <= set(row["extra"])
    assert set(row["extra"]) or name in ("jsonl", "textvqa")
    lines = [json.loads(line) for file in (tmp_path / "run").glob("predictions-*") for line in file.open()]
    assert {line["sample_id"] for line in lines} == {sample.sample_id for sample in samples}
    assert all(line["num_visual_tokens"] > 0 for line in lines)


def test_every_benchmark_that_is_not_bundled_has_a_layout() -> None:
    assert set(LAYOUTS) == set(BENCHMARKS()) - {"shapesqa"}
