"""The whole of an evaluation as asked for on the command line, with the files that ship."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lit_simignore.benchmarks.jsonl import JsonLinesBenchmark
from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.config.evaluation import compose_evaluation
from lit_simignore.config.typed import ConfigError
from lit_simignore.pruning.simignore import Simignore

DEFAULT_METHODS = ["baseline", "simignore", "random", "stride", "least-similar", "text-only", "eah"]


def name_of(*assignments: str) -> str:
    return compose_evaluation(assignments).run_dir.name


def test_nothing_asked_for_is_the_bundled_model_against_simignore_and_the_controls() -> None:
    asked = compose_evaluation([])
    assert asked.config.model.path == "pico"
    assert isinstance(asked.benchmark, ShapesQA)
    assert [method.name for method in asked.methods] == DEFAULT_METHODS
    assert asked.run_dir.parent == Path("runs")
    assert asked.run_dir.name.startswith("pico-shapesqa-")


def test_fields_of_the_benchmark_are_typed_by_its_class(tmp_path: Path) -> None:
    asked = compose_evaluation(["benchmark.limit=3", "benchmark.tasks=[caption]"])
    assert asked.benchmark == ShapesQA(limit=3, tasks=["caption"])
    (tmp_path / "my.jsonl").write_text('{"id": 1, "image": [], "question": "?"}\n', encoding="utf-8")
    asked = compose_evaluation(["benchmark=jsonl", f"benchmark.path={tmp_path}/my.jsonl"])
    assert asked.benchmark == JsonLinesBenchmark(path=f"{tmp_path}/my.jsonl")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("benchmark=shapeqa", "benchmark: unknown benchmark 'shapeqa'; did you mean 'shapesqa'"),
        ("benchmark.limt=3", "benchmark.limt: unknown key; did you mean 'limit'?"),
        ("benchmark.limit=x", "benchmark.limit: expected an integer or null, got 'x'"),
        ("benchmark.tasks=[chess]", "benchmark.tasks must name some of choice"),
        ("benchmark=jsonl", "benchmark.path"),
        ("analysis=flw", "analysis: "),
        ("flow.samples=0", "flow.samples: expected at least 1, got 0"),
        ("flow.target=logits", "flow.target: "),
        ("flow.methods=[simignor]", "flow.methods: 'simignor' is not among the methods; did you mean 'simignore'"),
        ("run.name=a/b", "run.name: expected letters"),
        ("run.name=..", "run.name: expected letters"),
        ("compare=[runs/a]", "compare: expected two runs, got 1"),
        ("trainer.batch_size=0", "trainer.batch_size: expected at least 1, got 0"),
        ("trainer.batch_size=many", "trainer.batch_size: expected a number or auto, got 'many'"),
        ("report.samples=-1", "report.samples: expected at least 0, got -1"),
        ("method.simignore.num_kep=3", "method.simignore.num_kep: unknown key; did you mean 'num_keep'?"),
        ("method=3", "method: expected a mapping, got '3'"),
    ],
)
def test_a_mistake_is_one_line(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_evaluation([assignment])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_budget_for_all_says_in_their_names_what_it_counts() -> None:
    asked = compose_evaluation(["budget=layer_mean:24", "methods=[baseline,simignore,fastv,text-only]"])
    names = ["baseline", "simignore@layer_mean:24", "fastv@layer_mean:24", "text-only"]
    assert [method.name for method in asked.methods] == names
    assert asked.resolved["budget"] == "layer_mean:24"
    same = compose_evaluation(["budgets=[24]", "budget_definition=layer_mean", "methods=[baseline,simignore,fastv]"])
    assert [method.name for method in same.methods] == names[:3]
    plain = compose_evaluation(["budget=24", "methods=[fastv]"])
    assert [method.name for method in plain.methods] == ["fastv@24"]


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["budget=24", "budgets=[36]"], "budget: give one of budget and budgets; got '24' and [36]"),
        (["budget=mean:24"], "budget: expected one of input, final, layer_mean, flops, got 'mean'"),
        (["budget=half"], "budget: expected a number of visual tokens"),
    ],
)
def test_a_budget_that_cannot_be_read_is_one_line(assignments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_evaluation(assignments)
    assert words in str(caught.value)


def test_a_benchmark_without_its_file_is_bad_configuration_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        compose_evaluation(["benchmark=jsonl", "benchmark.path=no-such-file.jsonl"])


def test_the_run_folder_changes_with_model_data_and_decoding_and_with_nothing_else() -> None:
    same = name_of()
    for assignment in (
        "methods=[baseline]", "trainer.devices=2", "budgets=[8]", "report.samples=0", "overwrite=true", "seed=3",
    ):
        assert name_of(assignment) == same
    others = [
        "model=pico-unaligned", "model.dtype=auto", "benchmark.limit=5", "benchmark.seed=1", "trainer.max_new_tokens=3",
    ]
    assert len({same, *map(name_of, others)}) == 1 + len(others)
    assert name_of("run.name=mine") == "mine"


def test_the_saved_configuration_gives_the_same_run_again(tmp_path: Path) -> None:
    first = compose_evaluation(
        ["methods=[baseline,simignore@text=options,stride]", "method.simignore.num_keep=9", "benchmark.limit=4"]
    )
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create(first.resolved), path)
    again = compose_evaluation([f"experiment={path}"])
    assert again.methods == first.methods
    assert again.methods[1].parts == (Simignore(num_keep=9, text="options"),)
    assert (again.benchmark, again.run_dir, again.resolved) == (first.benchmark, first.run_dir, first.resolved)


def test_the_saved_configuration_is_plain() -> None:
    resolved = compose_evaluation(["model.dtype=bfloat16", "benchmark.limit=2"]).resolved
    assert resolved["model"]["dtype"] == "bfloat16"
    assert type(resolved["model"]["dtype"]) is str
    assert resolved["benchmark"].items() >= {"name": "shapesqa", "limit": 2, "seed": 999}.items()
    assert resolved["method"]["simignore"] == {"simignore": {"keep_ratio": 0.5}}
    assert not {"experiment", "overwrite", "compare"} & set(resolved)
