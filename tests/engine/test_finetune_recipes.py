"""The shipped recipes, run for two steps through ``train.py`` itself on tiny weights of the same architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lit_simignore import cli
from tests.tiny_checkpoints import save_tiny_checkpoint
from tests.tiny_models import tiny_image

RECIPES = {"llava-1.5-7b-scienceqa": "llava", "qwen2.5-vl-7b-scienceqa": "qwen2_5_vl"}


@pytest.fixture(scope="module")
def scienceqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ScienceQA's own layout with made-up questions."""
    folder = tmp_path_factory.mktemp("scienceqa")
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    problems = {}
    for number in range(12):
        split, name = list(splits)[number % 3], str(number)
        splits[split].append(name)
        problem = {"question": "What colour ?", "choices": ["red", "blue"], "answer": number % 2, "hint": ""}
        problems[name] = {**problem, "image": "image.png", "split": split}
        picture = folder / "images" / split / name / "image.png"
        picture.parent.mkdir(parents=True)
        tiny_image(number).save(picture)
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    return folder


def small(recipe: str, tmp_path: Path, scienceqa: Path) -> list[str]:
    """What makes the recipe fit this machine; everything else is as shipped."""
    model = save_tiny_checkpoint(RECIPES[recipe], tmp_path / "model")
    return [
        f"experiment={recipe}", f"model.path={model}", f"benchmark.path={scienceqa}",
        f"data.benchmark.path={scienceqa}", "training.steps=2", "training.batch_size=4", "training.micro_batch_size=2",
        "validation.every=2", "validation.samples=2", "trainer.accelerator=cpu", "trainer.devices=1",
        "trainer.num_workers=0", "trainer.progress=false", "trainer.max_new_tokens=2", f"run.dir={tmp_path}",
        "run.name=run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.slow] * (name != "llava-1.5-7b-scienceqa")) for name in RECIPES]
)
def test_a_recipe_runs_as_it_is_shipped(
    recipe: str, tmp_path: Path, scienceqa: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.train_main([*small(recipe, tmp_path, scienceqa), "--traceback"]) == 0
    printed = capsys.readouterr().out
    assert "pruning took" in printed and "training gave back" in printed and "AFTER TRAINING" in printed
    run = tmp_path / "run"
    names = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any("lora_A" in name for name in names)
    assert any("multi_modal_projector" in name for name in names) == (RECIPES[recipe] == "llava")
    pruning = json.loads((run / "adapter" / "pruning.json").read_text())
    assert pruning["parts"][0]["fields"]["keep_ratio"] == 0.25
    assert pruning["schedule"]["kind"] == ("annealed" if recipe.startswith("qwen") else "constant")
    assert len((run / "validation.jsonl").read_text().splitlines()) == 1
    assert (run / "config.yaml").is_file() and not (run / "checkpoints").exists()
    # again: nothing is trained or answered a second time
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert cli.train_main(small(recipe, tmp_path, scienceqa)) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


def test_a_malformed_file_stops_everything_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = {"id": "7", "conversations": [{"from": "human", "value": "<image>hi"}, {"from": "gpt", "value": ""}]}
    (tmp_path / "chats.json").write_text(json.dumps([talk]))
    keys = ["data.source=conversations", f"data.path={tmp_path / 'chats.json'}", f"run.dir={tmp_path / 'runs'}"]
    assert cli.train_main(keys) == 1
    assert capsys.readouterr().err == "error: chats.json, record 1 (id '7'): turn 2: the answer is empty\n"
    assert not (tmp_path / "runs").exists()


def test_long_conversations_are_named_before_anything_is_written_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk(name: str, words: int) -> dict[str, object]:
        turns = [{"from": "human", "value": "<image>" + "what color is the circle ? " * words}]
        return {"id": name, "image": "a.png", "conversations": [*turns, {"from": "gpt", "value": "red"}]}

    tiny_image(0).save(tmp_path / "a.png")
    (tmp_path / "chats.json").write_text(json.dumps([talk("long", 9), talk("short", 1), talk("longer", 12)]))
    keys = [
        "data.source=conversations", f"data.path={tmp_path / 'chats.json'}", f"run.dir={tmp_path / 'runs'}",
        "data.max_tokens=180", "outcome.before=false", "outcome.after=false", "training.steps=1", "run.name=run",
        "trainer.progress=false", "trainer.accelerator=cpu",
    ]  # fmt: skip
    assert cli.train_main(keys) == 1
    message = capsys.readouterr().err
    assert "error: chats.json, record 1 (id 'long'): makes " in message and "data.too_long=drop" in message
    assert "144 of them for its images; the limit is 180 (2 of 3 conversations are too long)" in message
    assert not (tmp_path / "runs").exists()
    assert cli.train_main([*keys, "data.too_long=drop"]) == 0
    said = capsys.readouterr()
    assert "left out 2 of 3 conversations: chats.json, record 1" in said.err and "2 conversations were too" in said.out
    found = json.loads((tmp_path / "runs" / "run" / "training.json").read_text())
    assert found["data"]["conversations"] == 1 and found["recipe"]["too_long"] == "drop"
