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
