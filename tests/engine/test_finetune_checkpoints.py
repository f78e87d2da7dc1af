"""Stopping, going on, and what is left behind: other programs can load it, and no other run's files are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_simignore.engine.finetune_checkpoints import (
    FOLDER,
    POINTER,
    TrainingCheckpoints,
    claim_folder,
    last_checkpoint,
)
from lit_simignore.engine.finetune_export import PRUNING, TENSORS, export, load_trained
from lit_simignore.engine.finetune_tuning import Tuning
from lit_simignore.interventions.eah import EAH
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.load import load
from lit_simignore.types import UserError
from tests.engine.finetuning import QUIET, Losses, data, far, fit, folder_of, module, weights
from tests.tiny_models import tiny_batch, tiny_llava

ROOT = Path(__file__).resolve().parents[2]
STEPS = 5
SHORT = (
    "training.steps=6", "training.batch_size=4", "checkpoint.every=1", "tuning.rank=4", "tuning.dropout=0.1",
    "trainer.accelerator=cpu", "trainer.progress=false",
)  # fmt: skip


class Dies(L.Callback):
    """Fails in the given micro-batch, before it is counted."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at:
            raise RuntimeError("died")


def train(
    folder: Path, dies_at: int | None = None, every: int = 1, micro: int = 2, **tuning: Any
) -> tuple[Any, list[float]]:
    """Train with checkpoints, go on from what is there; returns the module and the losses of this attempt."""
    lit = module(tuning=Tuning(**{"dropout": 0.3, **tuning}))
    losses = Losses()
    resumed = last_checkpoint(folder)
    callbacks = [TrainingCheckpoints(folder, every), losses, *([] if dies_at is None else [Dies(dies_at)])]
    torch.manual_seed(1)
    options = {**QUIET, "accumulate_grad_batches": 4 // micro, "default_root_dir": folder}
    trainer = L.Trainer(max_steps=STEPS, max_epochs=-1, callbacks=callbacks, **options)
    trainer.fit(lit, data(4, micro), ckpt_path=resumed, weights_only=True)
    return lit, losses.values


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("dies_at", "every"),
    [(4, 1), *(pytest.param(at, 1 + 2 * (at > 7), marks=pytest.mark.slow) for at in (1, 2, 3, 5, 6, 7, 8, 9))],
)
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, whole: Any, dies_at: int, every: int):
    """With dropout, accumulation, a learning rate that moves, and a stop within a step as well as between two."""
    with pytest.raises(RuntimeError, match="died"):
        train(tmp_path, dies_at, every)
    lit, losses = train(tmp_path, every=every)
    assert far(weights(lit), weights(whole[0])) == 0.0
    assert losses[-1] == whole[1][-1] and len(losses) <= STEPS


def test_going_on_with_other_micro_batches_begins_a_whole_step(tmp_path: Path) -> None:
    """As with another number of processes: after one step of two there is half a step of four."""
    straight, expected = train(tmp_path / "straight", dropout=0.0)
    with pytest.raises(RuntimeError, match="died"):
        train(tmp_path / "cut", 2, micro=2, dropout=0.0)
    lit, losses = train(tmp_path / "cut", micro=1, dropout=0.0)
    assert losses == pytest.approx(expected[1:], abs=1e-5)
    assert far(weights(lit), weights(straight)) < 1e-3


def test_a_checkpoint_holds_only_what_is_trained_and_only_the_last_stays(tmp_path: Path) -> None:
    lit, _ = train(tmp_path)
    path = last_checkpoint(tmp_path)
    assert path is not None and folder_of(tmp_path / FOLDER) == {path.name, POINTER}
    saved = torch.load(path, weights_only=True)
    assert set(saved["state_dict"]) == set(weights(lit))
    assert len(saved["state_dict"]) < len(lit.state_dict())


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UserError, match="trains other weights"):
        train(tmp_path, targets=("q_proj",))


# -- the folder


def test_only_the_named_checkpoint_is_ever_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any) -> None:
    """Neither what lies in the working folder nor what a requeued SLURM job left is taken up."""
    work = tmp_path / "work"
    old, _ = train(tmp_path / "old")
    shutil.copytree(tmp_path / "old" / FOLDER, work)
    (checkpoint,) = work.glob("*.ckpt")
    shutil.copy(checkpoint, work / "hpc_ckpt_1.ckpt")
    shutil.copy(checkpoint, work / "last.ckpt")
    monkeypatch.chdir(work)
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert last_checkpoint(tmp_path / "run") is None
    lit, losses = train(tmp_path / "run")
    assert len(losses) == STEPS and far(weights(lit), weights(whole[0])) == 0.0
    shutil.copy(checkpoint, tmp_path / "run" / FOLDER / "hpc_ckpt_1.ckpt")
    with pytest.raises(UserError, match="hpc_ckpt_1.ckpt was left by a requeued job"):
        last_checkpoint(tmp_path / "run")


def test_a_damaged_pointer_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    pointer = tmp_path / FOLDER / POINTER
    pointer.write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        last_checkpoint(tmp_path)
    pointer.write_text(json.dumps({"file": "../../gone.ckpt", "step": 1}))
    with pytest.raises(UserError, match="names gone.ckpt, which is not there"):
        last_checkpoint(tmp_path)


def test_a_folder_belongs_to_one_training(tmp_path: Path) -> None:
    claim_folder(tmp_path, {"recipe": {"lr": 1.0}, "data": [1]}, overwrite=False, write=True)
    claim_folder(tmp_path, {"recipe": {"lr": 1.0}, "data": [1]}, overwrite=False, write=True)
    with pytest.raises(UserError, match=r"holds another training: recipe.lr: 1.0 -> 2.0. Pass overwrite=true"):
        claim_folder(tmp_path, {"recipe": {"lr": 2.0}, "data": [1]}, overwrite=False, write=True)
    (tmp_path / "adapter").mkdir()
    claim_folder(tmp_path, {"recipe": {"lr": 2.0}, "data": [1]}, overwrite=True, write=True)
    assert not (tmp_path / "adapter").exists()


# -- what is left behind


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny_batch().inputs).logits


@pytest.mark.parametrize("projector", [False, True])
def test_peft_loads_the_adapter_without_this_package(tmp_path: Path, projector: bool) -> None:
    peft = pytest.importorskip("peft")
    lit = module(tuning=Tuning(projector=projector))
    fit(lit, data(), 2)
    folder = export(lit, tmp_path / "adapter", name="simignore", base="someone/llava", write=True)
    expected = logits(lit.vlm.eval())
    assert folder_of(folder) == {"adapter_config.json", "adapter_model.safetensors", PRUNING}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/llava"
    loaded = peft.PeftModel.from_pretrained(tiny_llava(), folder).eval()
    assert torch.equal(logits(loaded), expected) and not torch.equal(logits(tiny_llava()), expected)
    ours = tiny_llava()
    load_trained(ours, str(folder))
    assert torch.equal(logits(ours.eval()), expected)


def test_a_projector_and_a_whole_model_come_back(tmp_path: Path) -> None:
    lit = module(tuning=Tuning(kind="projector"))
    fit(lit, data(), 2)
    folder = export(lit, tmp_path / "adapter", name="simignore", base="x", write=True)
    assert folder_of(folder) == {TENSORS, PRUNING}
    ours = tiny_llava()
    load_trained(ours, str(folder))
    assert torch.equal(logits(ours), logits(lit.vlm.eval()))
    for lora, kind in ((False, "full"), (True, "lora")):
        lit = module(tuning=Tuning(kind=kind))
        fit(lit, data(), 2)
        expected = logits(lit.vlm.eval())
        folder = export(lit, tmp_path / kind, name="simignore", base="x", write=True, whole=lora)
        model, _ = load(folder)
        assert float((logits(model) - expected).abs().max()) < 1e-4 * float(expected.abs().max())
        assert (folder / PRUNING).is_file() and not list(folder.glob("*.bin"))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    lit = module(tuning=Tuning(kind="projector"))
    fit(lit, data(), 1)
    folder = export(lit, tmp_path / "adapter", name="simignore", base="x", write=True)
    with pytest.raises(UserError, match="does not fit this model"):
        load_trained(torch.nn.Linear(2, 2), str(folder))
    (folder / TENSORS).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot read"):
        load_trained(tiny_llava(), str(folder))
    with pytest.raises(UserError, match="cannot put the adapter"):
        load_trained(tiny_llava(), str(tmp_path / "nothing"))


def test_pruning_travels_with_the_adapter_and_evaluation_picks_it_up(tmp_path: Path) -> None:
    from lit_simignore.config.evaluation import compose_evaluation
    from lit_simignore.config.typed import ConfigError

    parts = Simignore(keep_ratio=0.25, text="question"), FastV(layer_idx=2, num_keep=3), EAH(layer_idx=1)
    lit = module(*parts)
    fit(lit, data(), 1)
    folder = export(lit, tmp_path / "adapter", name="mine", base="pico", write=True)
    asked = compose_evaluation([f"model.adapter={folder}"])
    assert [method.name for method in asked.methods] == ["baseline", "trained"]
    assert asked.methods[1].parts == parts
    saved = tmp_path / "saved.yaml"
    from lit_simignore.cli import to_yaml

    saved.write_text(to_yaml(asked.resolved))
    assert compose_evaluation([f"experiment={saved}"]).methods[1].parts == parts
    others = compose_evaluation([f"model.adapter={folder}", "methods=[trained,stride@4]"])
    assert [method.name for method in others.methods] == ["trained", "stride@4"]
    (folder / PRUNING).write_text(json.dumps({"parts": [{"part": "os.system", "fields": {"x": 1}}]}))
    with pytest.raises(ConfigError, match="unknown part"):
        compose_evaluation([f"model.adapter={folder}"])
    (folder / PRUNING).write_text("[]")
    with pytest.raises(ConfigError, match="expected how the model was pruned"):
        compose_evaluation([f"model.adapter={folder}"])


# -- real processes


def command(folder: Path, *more: str, timeout: float = 900) -> int:
    """``train.py`` on the bundled model, for a few steps."""
    where = [f"run.dir={folder.parent}", f"run.name={folder.name}"]
    arguments = [*SHORT, "training.micro_batch_size=2", "outcome.before=false", "outcome.after=false", *where, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "tests.engine.run_finetune", *arguments]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    print(done.stdout[-3000:], done.stderr[-3000:])
    return done.returncode


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert command(folder) == 0
    return adapter(folder)


PLACES = ("0", "1", "6", "7", "writing-3", "written-3", "written-6")
"""In the first step before there is a checkpoint, in the middle of an accumulation, between two steps, while a
checkpoint is written, before it is pointed to, and after the last step before the export."""
GENTLY = ("0", "6", "writing-3")
"""Where SIGTERM comes as well: before there is a checkpoint, within a step, and while a checkpoint is written."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number", "status"),
    [*((place, signal.SIGKILL, -9) for place in PLACES), *((place, signal.SIGTERM, 143) for place in GENTLY)],
)
def test_a_killed_process_goes_on_to_the_same_adapter(
    tmp_path: Path, uninterrupted: dict[str, torch.Tensor], place: str, number: int, status: int
) -> None:
    assert command(tmp_path / "cut", f"dies={place}:{int(number)}") == status
    assert not (tmp_path / "cut" / "adapter").exists()
    assert (last_checkpoint(tmp_path / "cut") is None) == (place in ("0", "1"))
    assert command(tmp_path / "cut") == 0
    assert far(adapter(tmp_path / "cut"), uninterrupted) == 0.0


@pytest.mark.slow
def test_train_py_starts_its_processes_by_itself(tmp_path: Path) -> None:
    """Lightning's own launcher: the command alone, without torchrun; the same weights, and everything printed once."""
    printed = []
    for name, devices in (("one", 1), ("two", 2)):
        keys = [*SHORT, "benchmark.limit=6", "outcome.before=true", "outcome.after=true", "tuning.dropout=0"]
        keys += [f"trainer.devices={devices}", f"run.dir={tmp_path}", f"run.name={name}", "validation.every=6"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        program = [sys.executable, str(ROOT / "train.py"), *keys, "validation.samples=4"]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert far(adapter(tmp_path / "one"), adapter(tmp_path / "two")) < 1e-3
    assert [text.count("AFTER TRAINING") for text in printed] == [1, 1]
    one, two = ((tmp_path / name / "validation.jsonl").read_text() for name in ("one", "two"))
    assert one == two and one.count("\n") == 1
    assert json.loads((tmp_path / "two" / "after" / "summary.json").read_text())["methods"][0]["n"] == 6
