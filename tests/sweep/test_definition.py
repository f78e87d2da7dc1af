"""Sweep files: they run this project's programs and nothing else, with W&B's own words, as W&B's agent would."""

from __future__ import annotations

import copy
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lit_simignore.config.evaluation import compose_evaluation
from lit_simignore.config.typed import ConfigError
from lit_simignore.sweep.checks import check_jobs
from lit_simignore.sweep.definition import read_sweep
from lit_simignore.sweep.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "experiments").glob("*/sweep*.yaml"))
GRID: dict[str, Any] = {
    "program": "eval.py",
    "method": "grid",
    "parameters": {"budget": {"values": [9, 18]}, "seed": {"values": [0, 1, 2]}, "model": {"value": "pico"}},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return path


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_sweep_of_experiments_expands_as_wandb_does_and_composes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep, section = read_sweep(path), yaml.safe_load(path.read_text())
    plan = make_plan(sweep, 3, seed=1)
    for index in range(plan.total):
        values = plan.values(index, [])
        macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
        macros |= {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [section["program"]]}
        expanded: list[str] = []
        for word in create_sweep_command(copy.deepcopy(section.get("command"))):
            expanded += macros[word[2:-1]] if word.startswith("${") else [word]
        assert expanded == ["/usr/bin/env", sys.executable, sweep.program, *sweep.arguments(values)]
        if index in (0, plan.total // 2, plan.total - 1):
            check_jobs(sweep.program, [(str(index), sweep.arguments(values))])


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_sweep_of_experiments_keeps_to_wandbs_schema(path: Path) -> None:
    schema = pytest.importorskip("sweeps.config.cfg", reason="W&B's engine needs numpy below 2")
    assert schema.schema_violations_from_proposed_config(yaml.safe_load(path.read_text())) == []


def test_a_metric_of_a_fine_tuning_is_one_that_is_logged_while_it_trains() -> None:
    from lit_simignore.cli import TrainKeys
    from lit_simignore.config.training import compose_training, resolve_training
    from lit_simignore.tracking import VALIDATION

    sweeps = [sweep for sweep in map(read_sweep, FILES) if sweep.stops_early]
    assert sweeps
    for sweep in sweeps:
        assert sweep.program == "train.py" and sweep.metric is not None
        asked = resolve_training(*compose_training(TrainKeys, sweep.arguments(make_plan(sweep, 1, 0).values(0, []))))
        assert sweep.metric.name in [f"{VALIDATION}/{method.name}/accuracy" for method in asked.methods]
        assert 0 < asked.config.validation.every <= asked.config.training.steps // 4


def test_a_grid_is_the_product_in_the_files_order(tmp_path: Path) -> None:
    plan = make_plan(read_sweep(written(tmp_path)), None, 0)
    expected = [{"budget": b, "model": "pico", "seed": s} for b, s in itertools.product([9, 18], [0, 1, 2])]
    assert [plan.values(index, []) for index in range(plan.total)] == expected
    assert make_plan(read_sweep(written(tmp_path, run_cap=4)), None, 0).total == 4
    assert make_plan(read_sweep(written(tmp_path, run_cap=4)), 2, 0).total == 2


def test_random_draws_depend_on_seed_and_number_alone(tmp_path: Path) -> None:
    wish = {"budget": {"min": 1, "max": 10**6}, "seed": {"min": 0.0, "max": 1.0}}
    sweep = read_sweep(written(tmp_path, method="random", parameters=wish))
    few, many, other = make_plan(sweep, 3, 7), make_plan(sweep, 9, 7), make_plan(sweep, 3, 8)
    assert [few.values(index, []) for index in range(3)] == [many.values(index, []) for index in range(3)]
    assert few.values(0, []) != few.values(1, []) != other.values(1, [])
    with pytest.raises(ConfigError, match="a random search has no end by itself; set run_cap or give --count"):
        make_plan(sweep, None, 7)


def test_a_grid_without_end_is_refused(tmp_path: Path) -> None:
    sweep = read_sweep(written(tmp_path, parameters={"seed": {"min": 0, "max": 10**5}}))
    with pytest.raises(ConfigError, match="more than 10,000 points"):
        make_plan(sweep, None, 0)
    assert make_plan(sweep, 20, 0).total == 20


def test_values_reach_the_program_as_they_are(tmp_path: Path) -> None:
    """Booleans, nulls, small floats, lists, and text that a shell would take for its own."""
    values: dict[str, Any] = {
        "trainer.progress": False, "trainer.precision": None, "flow.sigma": 1.25e-05, "flow.layers": [0, 2],
        "logger.tags": ["a b", "$(touch x)"], "run.name": "r", "overwrite": True,
    }  # fmt: skip
    sweep = read_sweep(written(tmp_path))
    config = compose_evaluation(sweep.arguments(values)).config
    assert (config.trainer.progress, config.trainer.precision, config.flow.sigma) == (False, None, 1.25e-05)
    assert (config.flow.layers, config.logger.tags, config.overwrite) == ([0, 2], ["a b", "$(touch x)"], True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"program": "evil.py"}, "program: a sweep runs eval.py or train.py of this project, got 'evil.py'"),
        ({"program": "../eval.py"}, "got '../eval.py'"),
        ({"command": ["rm", "-rf", "/"]}, "a sweep runs nothing but its program"),
        ({"command": ["bash", "-c", "${program}", "${args}"]}, "nothing else may stand before the program"),
        ({"command": ["${interpreter}", "-c", "x", "${program}", "${args}"]}, "nothing else may stand before"),
        ({"command": "python eval.py"}, "command: expected"),
        ({"command": ["${program}"]}, "with the parameters once"),
        ({"command": ["${program}", "${args}", "${args_no_hyphens}"]}, "with the parameters once"),
        ({"command": ["${program}", "${args_json}"]}, "with the parameters once"),
        ({"command": ["${program}", "seed=${envvar:HOME}", "${args}"]}, "is not filled in without W&B's agent"),
        ({"command": ["${program}", "plugins=mine", "${args}"]}, "plugins: cannot be part of a sweep: it names code"),
        ({"command": ["${program}", "--plugins=mine", "${args}"]}, "plugins: cannot be part of a sweep"),
        ({"command": ["${program}", "word", "${args}"]}, "expected key=value, got 'word'"),
        ({"parameters": {"plugins": {"value": "mine"}}}, "plugins: cannot be part of a sweep: it names code"),
        ({"parameters": {"run.dir": {"value": "/"}}}, "run.dir: cannot be part of a sweep"),
        ({"parameters": {"run": {"value": "{dir: /}"}}}, "run: cannot be part of a sweep"),
        ({"parameters": {"overwrite": {"value": True}}}, "overwrite: cannot be part of a sweep"),
        ({"parameters": {"a b": {"value": 1}}}, "expected a dotted key"),
        ({"parameters": {"--x": {"value": 1}}}, "expected a dotted key"),
        ({"parameters": {}}, "expected at least one parameter"),
        ({"method": "gird"}, "method: unknown method 'gird'; did you mean 'grid'"),
        ({"run_cap": 0}, "run_cap: expected at least 1, got 0"),
        ({"metric": {"goal": "maximize"}}, "metric: expected {name"),
        ({"metric": {"name": "x", "goal": "up"}}, "metric.goal: expected minimize or maximize"),
        ({"job": "x"}, "job: unknown key of a sweep"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_sweep(written(tmp_path, **changes))
    assert words in str(caught.value) and "\n" not in str(caught.value) and "sweep.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "a: &a [*a]\nb: !!python/object:os.system {}"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"sweep\.yaml"):
        read_sweep(path)


def test_dashes_are_kept_and_the_folder_names_a_sweep(tmp_path: Path) -> None:
    path = written(tmp_path / ".", command=["${env}", "${interpreter}", "${program}", "seed=3", "${args}"])
    sweep = read_sweep(path)
    assert sweep.name == tmp_path.name and read_sweep(written(tmp_path, name="my sweep/..")).name == "my-sweep"
    assert sweep.arguments({"budget": 9}) == ["seed=3", "--budget=9"]
    assert compose_evaluation(sweep.arguments({"budget": 9})).config.seed == 3
