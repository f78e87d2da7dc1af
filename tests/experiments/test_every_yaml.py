"""Every YAML of ``configs/`` and ``experiments/`` runs: two samples, or two steps of training, on tiny weights.

Everything is found by scanning, so a new file is tested from birth. Weights are random and of the named architecture,
with its layers and heads; data are our own in the official layout.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_simignore import cli
from lit_simignore.config import folders
from tests.benchmarks.official_layouts import LAYOUTS
from tests.engine.test_finetune_recipes import RECIPES
from tests.engine.test_finetune_recipes import scienceqa as scienceqa
from tests.experiments.papers_models import SIZES, save_llava
from tests.tiny_checkpoints import save_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
OTHER_FAMILIES = {"qwen2.5-vl-7b": "qwen2_5_vl"}
BUNDLED = ("pico", "pico-unaligned")
REFUSED = {"cdpruner": "needs a text tower"}
"""Methods that no family can run, and why."""

QUICK = "simignore_attribution+pico"
"""What the default suite runs."""

TRAINS = ("task", "pruning", "training")


def overlays() -> dict[str, list[str]]:
    """What is run: every overlay of ``experiments/``, and every overlay with every model that it has a file for."""
    names = [name for name, path in folders.experiments().items() if path.is_relative_to(ROOT / "experiments")]
    found = {name: [f"experiment={name}"] for name in names}
    for model, scaled in folders.variants().items():
        found |= {f"{name}+{model}": [f"experiment={name}", f"model={model}"] for name in scaled if name in names}
    return found


def configs(group: str) -> list[str]:
    return [name for name, path in folders.options(group).items() if path.is_relative_to(ROOT)]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a model's file to a folder with tiny weights of that architecture."""
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(".", "-"))
            known = {**SIZES, **OTHER_FAMILIES}
            assert name in known, f"say here what tiny weights stand for configs/model/{name}.yaml"
            made[name] = save_llava(name, folder) if name in SIZES else save_tiny_checkpoint(known[name], folder)
        return made[name]

    return find


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a benchmark to the keys that load small data of our own."""

    def find(name: str) -> list[str]:
        if name not in LAYOUTS:
            return []
        return [f"benchmark.{key}={value}" for key, value in LAYOUTS[name](tmp_path_factory.mktemp(name)).items()]

    return find


def small(tmp_path: Path) -> list[str]:
    """What makes any run fit: everything else is as it is written."""
    return [
        f"run.dir={tmp_path}", "run.name=run", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_workers=0",
        "trainer.progress=false", "trainer.batch_size=2", "trainer.max_new_tokens=1",
    ]  # fmt: skip


def evaluate(tmp_path: Path, keys: list[str]) -> dict[str, Any]:
    more = ["benchmark.limit=2", "efficiency.samples=0", "report.samples=1", "flow.samples=1", "flow.shown=1"]
    assert cli.eval_main([*keys, *small(tmp_path), *more, "--traceback"]) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["run"]["complete"] and summary["run"]["num_samples"] == 2
    for row in summary["methods"]:
        assert (row["errors"], row["n"]) == (0, 2), row["name"]
    return summary


def said(keys: list[str]) -> dict[str, Any]:
    """The overlay's own YAML, and what is laid over it."""
    wish = dict(key.split("=", 1) for key in keys)
    path = folders.experiment(wish["experiment"])
    beside = folders.variant(path, wish.get("model", ""))
    return {**yaml.safe_load(path.read_text()), **(yaml.safe_load(beside.read_text()) if beside else {})}


def where(keys: list[str], written: dict[str, Any], weights: Any, data: Any) -> list[str]:
    """Weights and data for what the overlay names. Half precision, which the files ask for, is no use on a CPU."""
    wish = dict(key.split("=", 1) for key in keys)
    model, benchmark = (
        wish.get(group) or name_of(written.get(group), default)
        for group, default in (("model", "pico"), ("benchmark", "shapesqa"))
    )
    return [*([] if model in BUNDLED else [f"model.path={weights(model)}", "model.dtype=float32"]), *data(benchmark)]


def name_of(section: Any, default: str) -> str:
    return str(section.get("name", default) if isinstance(section, dict) else section or default)


def trains(written: dict[str, Any]) -> bool:
    return bool(set(TRAINS) & set(written))


EVALUATED = [name for name, keys in overlays().items() if not trains(said(keys))]
TRAINED = [name for name, keys in overlays().items() if trains(said(keys))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in EVALUATED]
)
def test_an_overlay_answers_two_samples(name: str, tmp_path: Path, weights: Any, data: Any) -> None:
    keys = overlays()[name]
    written = said(keys)
    summary = evaluate(tmp_path, [*keys, *where(keys, written, weights, data)])
    assert len(summary["methods"]) >= len(written.get("methods", ["baseline"]))
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "flow").is_dir() == (written.get("analysis") == "flow")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_an_overlay_trains_two_steps(
    name: str, tmp_path: Path, weights: Any, scienceqa: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = overlays()[name]
    written = said(keys)
    if written.get("task") == "pico":
        stages = ("text_steps", "vision_steps", "easy_steps", "warmup_steps", "decay_steps")
        few = [*(f"pico.{stage}=1" for stage in stages), "pico.hard_from=1", "pico.final_from=1"]
        size = ["pico.steps=2", "pico.batch_size=2", "pico.slots=3", "pico.text_rows=2"]
        assert cli.train_main([*keys, *few, *size, f"pico.output={tmp_path / 'made'}", "--traceback"]) == 0
        assert list((tmp_path / "made").rglob("model.safetensors"))
        return
    more = ["training.steps=2", "training.batch_size=4", "training.micro_batch_size=2", "benchmark.limit=2"]
    if name_of(written.get("benchmark"), "shapesqa") == "scienceqa":
        more += [f"benchmark.path={scienceqa}", f"data.benchmark.path={scienceqa}"]
    model = where(keys, {**written, "benchmark": "shapesqa"}, weights, lambda _: [])
    assert cli.train_main([*keys, *model, *small(tmp_path), *more, "--traceback"]) == 0
    assert "training gave back" in capsys.readouterr().out
    assert (tmp_path / "run" / "adapter" / "pruning.json").is_file()


def test_every_recipe_is_run_by_its_own_test() -> None:
    assert set(configs("finetune")) == set(RECIPES), "tests/engine/test_finetune_recipes.py runs them"


@pytest.mark.slow
@pytest.mark.parametrize("name", configs("model"))
def test_a_model_answers_two_samples(name: str, tmp_path: Path, weights: Any) -> None:
    path = [] if name in BUNDLED else [f"model.path={weights(name)}"]
    summary = evaluate(tmp_path, [f"model={name}", *path, "model.dtype=float32", "methods=[baseline,simignore]"])
    assert summary["run"]["model"] == name


@pytest.mark.slow
def test_every_method_answers_two_samples(tmp_path: Path, weights: Any, data: Any) -> None:
    names = [name for name in configs("method") if name not in REFUSED]
    keys = ["model=llava-1.5-7b", f"model.path={weights('llava-1.5-7b')}", "model.dtype=float32", "benchmark=scienceqa"]
    summary = evaluate(tmp_path, [*keys, *data("scienceqa"), f"methods=[{','.join(names)}]"])
    assert {row["name"] for row in summary["methods"]} == set(names)


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_no_family_can_run_says_why(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.eval_main([f"methods=[baseline,{name}]", *small(tmp_path), "benchmark.limit=2"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and REFUSED[name] in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("benchmark", "trainer", "logger") for name in configs(group)]
)
def test_a_group_file_answers_two_samples(group: str, name: str, tmp_path: Path) -> None:
    if name in ("tensorboard", "wandb"):
        pytest.importorskip(name, reason="a logger's package is optional")
    more = ["logger.offline=true"] if name == "wandb" else []
    evaluate(tmp_path, [f"{group}={name}", "methods=[baseline,random]", *more])
