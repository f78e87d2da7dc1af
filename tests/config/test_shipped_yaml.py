"""Every YAML file that ships parses against the dataclasses, and is found under the name that chooses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.cli import TrainKeys, to_yaml
from lit_simignore.config import folders
from lit_simignore.config.compose import compose
from lit_simignore.config.evaluation import compose_evaluation
from lit_simignore.config.methods import Definitions
from lit_simignore.config.schema import GROUPS
from lit_simignore.config.training import compose_training, resolve_training
from lit_simignore.pruning import PRUNERS

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "finetune").glob("*.yaml"))
FILES = sorted(set((ROOT / "configs").glob("*/*.yaml")) - set(RECIPES))
WRITTEN = sorted(
    path for path in (ROOT / "experiments").glob("*/*.yaml") if path.stem.partition("-")[0] != "sweep"
)
VARIANTS = [path for path in WRITTEN if "." in path.stem]
OVERLAYS = sorted(set(WRITTEN) - set(VARIANTS))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_file_of_configs_composes(path: Path) -> None:
    group, name = path.parent.name, path.stem
    assert group in (*GROUPS, "method")
    asked = compose_evaluation([f"methods=[{name}]" if group == "method" else f"{group}={name}"])
    assert not set(name) & set("@+.") or group == "model"
    if group == "method":
        assert [method.name for method in asked.methods] == [name]
    else:
        assert asked.resolved[group]["name"] == name


@pytest.mark.parametrize("path", OVERLAYS, ids=relative)
def test_every_overlay_of_experiments_composes(path: Path) -> None:
    name = path.parent.name if path.stem == "config" else f"{path.parent.name}/{path.stem}"
    assert folders.experiments()[name] == path
    if "task:" in path.read_text(encoding="utf-8"):
        assert compose(TrainKeys, [f"experiment={name}"])[0].task is not None
    elif "pruning:" in path.read_text(encoding="utf-8"):
        assert resolve_training(*compose_training(TrainKeys, [f"experiment={name}"])).methods
    else:
        assert compose_evaluation([f"experiment={name}"]).methods


@pytest.mark.parametrize("path", VARIANTS, ids=relative)
def test_what_lies_beside_an_overlay_is_for_a_model_that_there_is(path: Path) -> None:
    stem, _, model = path.stem.partition(".")
    assert model in folders.options("model") and path.with_name(f"{stem}.yaml") in OVERLAYS
    name = path.parent.name if stem == "config" else f"{path.parent.name}/{stem}"
    keys = [f"experiment={name}", f"model={model}"]
    if "training" in name:
        assert resolve_training(*compose_training(TrainKeys, keys)).config.model.name == model
        return
    asked = compose_evaluation(keys)
    assert asked.config.model.name == model and asked.run_dir.name.find(model) > 0
    if model == "pico":
        assert type(asked.benchmark).__name__ == "ShapesQA"


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_every_recipe_composes_and_its_saved_form_gives_the_same_run(path: Path, tmp_path: Path) -> None:
    asked = resolve_training(*compose_training(TrainKeys, [f"experiment={path.stem}"]))
    assert asked.pruning.parts and asked.config.trainer.devices == 8 and asked.validation is not None
    saved = tmp_path / "saved.yaml"
    saved.write_text(to_yaml(asked.resolved), encoding="utf-8")
    again = resolve_training(*compose_training(TrainKeys, [f"experiment={saved}"]))
    assert again.resolved == asked.resolved and again.run_dir == asked.run_dir


def test_there_are_files_for_every_group_and_the_default_of_every_group() -> None:
    assert {path.parent.name for path in FILES} == {*GROUPS, "method"}


def test_every_pruner_has_a_method_of_its_own() -> None:
    definitions = Definitions()
    alone = {next(iter(found)) for name in folders.options("method") if len(found := definitions.parts_of(name)) == 1}
    assert alone >= set(PRUNERS())


def test_a_wheel_carries_every_group() -> None:
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    carried = {pattern for patterns in settings["data-files"].values() for pattern in patterns}
    assert carried == {f"configs/{group}/*.yaml" for group in (*GROUPS, "method", "finetune")}
    for target, patterns in settings["data-files"].items():
        assert [target] == [f"share/lit_simignore/{pattern.rsplit('/', 1)[0]}" for pattern in patterns]
