"""Layers: defaults, group files, an overlay, the command line, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lit_simignore.config import folders
from lit_simignore.config.compose import compose
from lit_simignore.config.schema import Dtype, EvalConfig
from lit_simignore.config.typed import ConfigError

FILES = {
    "configs/model/small.yaml": "path: org/small\ndtype: float16\n",
    "configs/model/large.yaml": "path: org/large\n",
    "configs/trainer/auto.yaml": "batch_size: 4\nnum_workers: 1\n",
    "configs/trainer/many.yaml": "devices: 8\nbatch_sise: 2\n",
    "configs/logger/none.yaml": "{}\n",
    "experiments/fast/config.yaml": (
        "model: large\ntrainer: {batch_size: 5}\nmethods: [baseline]\nseed: ${trainer.batch_size}\n"
    ),
    "experiments/fast/other.yaml": "trainer: {num_workers: x}\n",
    "experiments/bad/config.yaml": "- a\n- b\n",
    "experiments/torn/config.yaml": "a: [1\n",
}


@pytest.fixture(autouse=True)
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "_ROOTS", ())


def composed(*assignments: str) -> EvalConfig:
    return compose(EvalConfig, ["model=small", *assignments])[0]


def refused(*assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        composed(*assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_group_file_overrides_the_dataclass_and_the_command_line_overrides_both() -> None:
    config = composed("trainer.num_workers=3")
    assert (config.model.path, config.model.dtype) == ("org/small", Dtype.FLOAT16)
    assert (config.trainer.batch_size, config.trainer.num_workers, config.trainer.devices) == (4, 3, 1)


def test_an_overlay_stands_between_group_files_and_command_line() -> None:
    config = compose(EvalConfig, ["experiment=fast"])[0]
    assert (config.model.name, config.trainer.batch_size, config.methods) == ("large", 5, ["baseline"])
    config = composed("experiment=fast", "trainer.batch_size=6")
    assert (config.model.name, config.trainer.batch_size) == ("small", 6)


def test_other_keys_can_be_referred_to() -> None:
    assert compose(EvalConfig, ["experiment=fast"])[0].seed == 5
    assert composed("run.name=${model.name}-x").run.name == "small-x"
    assert "nope" in refused("run.name=${nope}")


def test_sweeps_may_write_two_hyphens_and_none() -> None:
    config = composed("--seed=3", "--trainer.precision=None")
    assert (config.seed, config.trainer.precision) == (3, None)


def test_anything_with_a_slash_is_a_model_of_its_own() -> None:
    config = compose(EvalConfig, ["model=org/My_model"])[0]
    assert (config.model.name, config.model.path) == ("My_model", "org/My_model")
    config = compose(EvalConfig, ["model.path=org/other"])[0]
    assert (config.model.name, config.model.path) == ("other", "org/other")
    config = compose(EvalConfig, ["model.name=mine", "model.path=org/other"])[0]
    assert (config.model.name, config.model.path) == ("mine", "org/other")
    assert composed("model.path=org/other").model.dtype is Dtype.FLOAT16


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("trainer.devics=2", "trainer.devics: unknown key; did you mean 'devices'?"),
        ("loger=none", "loger: unknown key; did you mean 'logger'?"),
        ("logger=nune", "logger: unknown option 'nune'; did you mean 'none'?"),
        ("experiment=fest", "experiment: unknown overlay 'fest'; did you mean 'fast'?"),
        ("seed=x", "seed: expected an integer, got 'x'"),
        ("seed=", "seed: expected a value after seed="),
        ("seed", "expected key=value, got 'seed'"),
        ("=3", "expected key=value"),
        ("run..name=3", "expected key=value"),
        ("run=3", "run: expected a section of dir, name"),
        ("methods=[a", "methods: expected a YAML value"),
        ("trainer=many", "trainer.batch_sise: unknown key; did you mean 'batch_size'? (in configs/trainer/many.yaml)"),
        ("experiment=fast/other", "expected an integer, got 'x' (in experiments/fast/other.yaml)"),
        ("experiment=bad", "experiments/bad/config.yaml: expected a mapping"),
        ("experiment=torn", "experiments/torn/config.yaml: cannot be read as YAML"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(assignment: str, words: str) -> None:
    assert words in refused(assignment)


def test_a_key_cannot_be_a_value_and_a_section_at_once() -> None:
    assert "give one of the two" in refused("seed=1", "seed.x=2")


@dataclass(kw_only=True)
class WithoutGroups:
    """Keys of a command that has no groups.

    Args:
        seed: a number.
    """

    seed: int = 0


def test_a_group_that_this_command_lacks_is_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match="model: unknown key"):
        compose(WithoutGroups, ["model=small"])


def test_a_file_here_hides_one_of_the_same_name_further_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "zzz"  # behind the near one in the alphabet, so that sorting cannot be what decides
    for name in ("small", "far"):
        path = away / "configs" / "model" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("path: org/far\n", encoding="utf-8")
    monkeypatch.setattr(folders, "_ROOTS", (away,))
    assert list(folders.options("model")) == ["far", "large", "small"]
    assert composed().model.path == "org/small"
    assert compose(EvalConfig, ["model=far"])[0].model.path == "org/far"


def write(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_file_for_the_chosen_model_is_laid_over_the_overlay(tmp_path: Path) -> None:
    write(tmp_path, {
        "experiments/table/config.yaml": (
            "model: {name: large, dtype: bfloat16}\nseed: 1\nmethods: [baseline, random]\n"
        ),
        "experiments/table/config.small.yaml": "seed: 2\nmethods: [baseline]\n",
        "experiments/table/other.yaml": "model: small\nseed: 3\n",
        "experiments/table/other.small.yaml": "run: {name: mine}\n",
    })  # fmt: skip
    large = compose(EvalConfig, ["experiment=table"])[0]
    assert (large.model.path, large.model.dtype, large.seed) == ("org/large", Dtype.BFLOAT16, 1)
    assert large.methods == ["baseline", "random"]
    small = compose(EvalConfig, ["experiment=table", "model=small"])[0]
    assert (small.model.path, small.seed, small.methods) == ("org/small", 2, ["baseline"])
    assert compose(EvalConfig, ["experiment=table", "model=small", "seed=9"])[0].seed == 9
    by_overlay = compose(EvalConfig, ["experiment=table/other"])[0]  # the overlay itself chooses the model
    assert (by_overlay.seed, by_overlay.run.name) == (3, "mine")
    assert compose(EvalConfig, ["experiment=table", "model=org/small"])[0].seed == 1  # somebody's own, not this one
    assert {"table", "table/other"} < set(folders.experiments())
    assert not [name for name in folders.experiments() if name.endswith(".small")]
    assert folders.variants() == {"small": ["table", "table/other"]}
    assert "unknown overlay" in refused("experiment=table/config.small")


def test_a_mistake_in_what_lies_over_an_overlay_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, {"experiments/t/config.yaml": "{}\n", "experiments/t/config.small.yaml": "sed: 2\n"})
    assert refused("experiment=t") == "sed: unknown key; did you mean 'seed'? (in experiments/t/config.small.yaml)"
    write(tmp_path, {"experiments/t/config.small.yaml": "plugins: mine\n"})
    assert "taken from the command line only" in refused("experiment=t")


def test_fields_that_were_written_for_another_option_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, {
        "configs/trainer/one.yaml": "devices: 1\n",
        "experiments/t/config.yaml": (
            "model: {name: large, dtype: bfloat16, path: org/mine}\nbenchmark: {name: pope, split: x}\n"
            "trainer: {name: many, devices: 4}\nlogger: {project: p}\n"
        ),
    })  # fmt: skip
    write(tmp_path, {"configs/trainer/many.yaml": "devices: 8\n"})
    kept = compose(EvalConfig, ["experiment=t"])[0]
    assert (kept.model.path, kept.model.dtype, kept.trainer.devices) == ("org/mine", Dtype.BFLOAT16, 4)
    assert kept.benchmark == {"name": "pope", "split": "x"} and kept.logger.project == "p"
    assert compose(EvalConfig, ["experiment=t", "trainer=many", "benchmark=pope"])[0] == kept
    changed = compose(EvalConfig, ["experiment=t", "model=small", "benchmark=shapesqa", "trainer=one"])[0]
    assert (changed.model.path, changed.model.dtype, changed.trainer.devices) == ("org/small", Dtype.FLOAT16, 1)
    assert changed.benchmark == {"name": "shapesqa"} and changed.logger.project == "p"
