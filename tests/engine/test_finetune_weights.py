"""Which weights of a training are written: the last ones, their average, or those of the best validation."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from lit_simignore.engine import finetune as engine
from lit_simignore.engine.finetune import Evaluations, FinetuneSettings, finetune
from lit_simignore.engine.finetune_averaging import AveragedWeights
from lit_simignore.engine.finetune_export import PRUNING
from lit_simignore.engine.finetune_tuning import Tuning
from lit_simignore.engine.finetune_validation import Validation
from lit_simignore.engine.finetuner import Optimization
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.tracking import build_logger
from lit_simignore.types import Method, UserError
from tests.engine.finetuning import conversations, data, far, fit, module, trained_logits, weights
from tests.engine.forked import run_forked
from tests.engine.toys import BASELINE, Toy, model_and_processor, settings

PRUNED = Method("simignore", (Simignore(keep_ratio=0.25),))


class Seen(L.Callback):
    """Notes the trained weights before the first step and after every one."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.weights.append(weights(pl_module))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == len(self.weights):
            self.weights.append(weights(pl_module))


def naive_average(seen: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    found = {name: value.double() for name, value in seen[0].items()}
    for step, current in enumerate(seen[1:]):
        kept = min(decay, (1 + step) / (10 + step))
        found = {name: kept * found[name] + (1 - kept) * current[name].double() for name in found}
    return found


@pytest.mark.parametrize("decay", [0.15, 0.999])
def test_the_average_is_that_of_a_naive_loop_and_changes_no_step(decay: float) -> None:
    seen, average, alone = Seen(), AveragedWeights(decay), Seen()
    lit = module()
    losses = fit(lit, data(4, 2), 4, callbacks=[average, seen], accumulate_grad_batches=2)
    assert average.updates == 4 and len(seen.weights) == 5
    assert far(average.average, naive_average(seen.weights, decay)) < 1e-6
    plain = module()
    assert fit(plain, data(4, 2), 4, callbacks=[alone], accumulate_grad_batches=2) == losses
    assert far(weights(lit), weights(plain)) == 0.0
    with average.in_place(lit):
        assert far(weights(lit), average.average) == 0.0 and far(weights(lit), weights(plain)) > 1e-4
    assert far(weights(lit), weights(plain)) == 0.0


def test_the_average_is_kept_in_float32_whatever_the_weights_are() -> None:
    lit = module(tuning=Tuning(kind="projector"))
    lit._given[0].to(torch.bfloat16)
    average = AveragedWeights(0.999)
    fit(lit, data(), 2, callbacks=[average], precision="bf16-true")
    assert {value.dtype for value in weights(lit).values()} == {torch.bfloat16}
    assert {value.dtype for value in average.average.values()} == {torch.float32}
    average.put(lit)
    assert far(weights(lit), {name: value.bfloat16() for name, value in average.average.items()}) == 0.0


@pytest.mark.parametrize("changes", [{"ema": 1.0}, {"ema": 0.0}])
def test_a_decay_out_of_range_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match="training.ema must lie between 0 and 1"):
        AveragedWeights(changes["ema"])


@pytest.mark.parametrize("strategy", ["fsdp2", "deepspeed_stage_2"])
def test_an_average_of_split_weights_is_refused(strategy: str) -> None:
    with pytest.raises(UserError, match=f"strategy={strategy} splits them: use ddp"):
        FinetuneSettings(ema=0.9, run=EvaluationSettings(strategy=strategy))


# -- the whole run


class Scored(Toy):
    """Validation number ``i`` has the accuracy that ``by_step`` says, whatever was answered."""

    by_step: Callable[[], float] = staticmethod(lambda: 0.0)

    def score(self, parsed: str | None, sample: Any) -> float | None:
        return type(self).by_step()


def scored(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> type[Scored]:
    """A benchmark whose accuracy is that of the validation's step."""
    step = {"now": 0}
    judge = Validation.on_train_batch_end

    def told(self: Validation, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        step["now"] = trainer.global_step
        judge(self, trainer, pl_module, *args)

    monkeypatch.setattr(Validation, "on_train_batch_end", told)
    monkeypatch.setattr(Scored, "by_step", staticmethod(lambda: accuracies[step["now"] - 1]))
    return Scored


def wish(**changes: Any) -> FinetuneSettings:
    chosen = {
        "steps": 6, "batch_size": 2, "micro_batch_size": 1, "checkpoint_every": 1, "validate_every": 1,
        "validation_samples": 2, "optimization": Optimization(lr=0.01, warmup_ratio=0.0), "tuning": Tuning(dropout=0.2),
        "run": replace(settings(), batch_size=2),
    }  # fmt: skip
    return FinetuneSettings(**{**chosen, **changes})


def run(folder: Path, settings: FinetuneSettings, *, benchmark: Any = None, dies_at: int | None = None) -> Any:
    """``finetune`` on the tiny model, ended by an exception in a micro-batch where ``dies_at`` says so."""
    asked = Evaluations(benchmark or Toy(), (BASELINE, PRUNED), before=False, after=False)
    build = engine.build_training

    class Dies(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == dies_at:
                raise RuntimeError("died")

    engine.build_training = lambda *args, **options: build(args[0], args[1], [*args[2], Dies()], **options)
    try:
        return finetune(model_and_processor, conversations(8, lengths=True), PRUNED, folder, settings, asked)
    finally:
        engine.build_training = build


def record(folder: Path) -> dict[str, Any]:
    (found,) = [*folder.glob("adapter/" + PRUNING), *folder.glob("model/" + PRUNING)]
    return json.loads(found.read_text())


def test_the_best_weights_are_kept_and_the_step_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = scored(monkeypatch, [0.2, 0.8, 0.8, 0.5, 0.9, 1.0])
    run(tmp_path / "stopped", wish(patience=2), benchmark=best())
    assert record(tmp_path / "stopped") | {"step": 2, "last_step": 4, "validation": 0.8} == record(tmp_path / "stopped")
    run(tmp_path / "last", wish(), benchmark=best())
    assert record(tmp_path / "last")["step"] == 6
    # what the second step left is what a training of the same plan had after it
    cut = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="died"):
        run(cut, wish(), benchmark=best(), dies_at=4)
    saved = torch.load(next((cut / "checkpoints").glob("*.ckpt")), weights_only=True)
    assert saved["global_step"] == 2
    found = load_file(tmp_path / "stopped" / "adapter" / "adapter_model.safetensors")
    expected = {name.removeprefix("model.").replace(".default", ""): v for name, v in saved["state_dict"].items()}
    assert far(found, expected) == 0.0


@pytest.mark.parametrize("dies_at", [4, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 5, 7))])
def test_best_weights_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    best = scored(monkeypatch, [0.2, 0.8, 0.8, 0.5, 0.9, 1.0])
    run(tmp_path / "whole", wish(patience=2), benchmark=best())
    with pytest.raises(RuntimeError, match="died"):
        run(tmp_path / "cut", wish(patience=2), benchmark=best(), dies_at=dies_at)
    run(tmp_path / "cut", wish(patience=2), benchmark=best())
    assert torch.equal(trained_logits(tmp_path / "cut"), trained_logits(tmp_path / "whole"))
    assert record(tmp_path / "cut") == record(tmp_path / "whole")
    logs = [(tmp_path / name / "validation.jsonl").read_text() for name in ("cut", "whole")]
    assert logs[0] == logs[1] and logs[0].count("\n") == 4


def test_a_training_that_was_stopped_early_goes_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its end and its export: the next run writes, and does not go on to a better step."""
    best = scored(monkeypatch, [0.8, 0.2, 0.2, 1.0, 1.0, 1.0])
    export = engine.export
    monkeypatch.setattr(engine, "export", lambda *args, **options: (_ for _ in ()).throw(RuntimeError("died")))
    with pytest.raises(RuntimeError, match="died"):
        run(tmp_path, wish(patience=2), benchmark=best())
    monkeypatch.setattr(engine, "export", export)
    run(tmp_path, wish(patience=2), benchmark=best())
    assert (record(tmp_path)["step"], record(tmp_path)["last_step"]) == (1, 3)


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_the_average_is_validated_written_and_survives_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    chosen = wish(ema=0.9, tuning=Tuning(kind=kind), validate_every=6, validation_samples=8)
    validated = []
    judge = Validation._judge

    def noted(self: Validation, lit: Any, *args: Any) -> None:
        validated.append(weights(lit))
        judge(self, lit, *args)

    monkeypatch.setattr(Validation, "_judge", noted)
    run(tmp_path / "averaged", chosen)
    assert record(tmp_path / "averaged")["ema"] == 0.9 and len(validated) == 1
    run(tmp_path / "plain", replace(chosen, ema=None))
    assert float((trained_logits(tmp_path / "averaged") - trained_logits(tmp_path / "plain")).abs().max()) > 1e-3
    if kind == "lora":
        found = load_file(tmp_path / "averaged" / "adapter" / "adapter_model.safetensors")
        names = {name.removeprefix("model.").replace(".default", ""): value for name, value in validated[0].items()}
        assert far(found, names) == 0.0
    with pytest.raises(RuntimeError, match="died"):
        run(tmp_path / "cut", chosen, dies_at=5)
    run(tmp_path / "cut", chosen)
    assert torch.equal(trained_logits(tmp_path / "cut"), trained_logits(tmp_path / "averaged"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_processes_average_as_one(tmp_path: Path, kind: str) -> None:
    chosen = wish(ema=0.9, tuning=Tuning(kind=kind), micro_batch_size=None, validate_every=3)
    run(tmp_path / "one", chosen)
    two = replace(chosen, run=replace(chosen.run, devices=2, strategy="ddp"))
    run_forked(lambda rank: run(tmp_path / "two", two) and None, tmp_path / "answers")
    assert float((trained_logits(tmp_path / "two") - trained_logits(tmp_path / "one")).abs().max()) < 1e-2


@pytest.mark.slow
def test_best_weights_of_sharded_models_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = scored(monkeypatch, [0.2, 0.8, 0.1, 0.1, 0.9, 1.0])
    chosen = wish(patience=2, tuning=Tuning(kind="lora"), micro_batch_size=None)
    run(tmp_path / "one", chosen, benchmark=best())
    two = replace(chosen, run=replace(chosen.run, devices=2, strategy="fsdp2"))
    run_forked(lambda rank: run(tmp_path / "two", two, benchmark=best()) and None, tmp_path / "answers")
    assert record(tmp_path / "two")["step"] == 2
    assert float((trained_logits(tmp_path / "two") - trained_logits(tmp_path / "one")).abs().max()) < 1e-2


def test_a_training_that_starts_anew_forgets_validations_of_before(tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text('{"step": 3}\n{"step": 9}\n{"st')
    run(tmp_path, wish(steps=1))
    assert [json.loads(line)["step"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()] == [1]


@pytest.mark.slow
def test_losses_accuracies_and_answers_are_in_wandb_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back from the files that W&B writes offline, with W&B's own reader."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    logger = build_logger("wandb", tmp_path, offline=True)
    asked = Evaluations(Toy(), (BASELINE, PRUNED), before=True, after=True)
    talks = conversations(8, lengths=True)
    result = finetune(model_and_processor, talks, PRUNED, tmp_path, wish(steps=2), asked, logger=lambda: logger)
    logger.experiment.finish()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--summary", "--json", str(folder)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["summary"]
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert found["validation/simignore/accuracy"] == lines[-1]["accuracy"]["simignore"]
    for when in ("before", "after"):
        for row in result[when]["methods"]:
            assert found[f"outcome/{when}/{row['name']}/accuracy"] == row["accuracy"]
    tables = [json.loads(path.read_text()) for path in folder.glob("files/media/table/validation/samples_*.table.json")]
    assert len(tables) == len(lines) == 2
    shown = [[list(sample.values()) for sample in line["samples"]] for line in lines]
    assert sorted(table["data"] for table in tables) == sorted(shown)
    assert tables[0]["columns"] == ["prompt", "answer", "output", "score", "num_kept"] and len(shown[0]) == 2


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("deepspeed_stage_3", "leaves no process with whole weights to write; use fsdp2"),
        ("deepspeed_stage_2", "DeepSpeed installed"),
        ("fsdp", "requires a GPU accelerator"),
        ("nonsense", "invalid strategy name"),
    ],
)
def test_strategies_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, strategy: str, message: str
) -> None:
    if strategy == "deepspeed_stage_2" and importlib.util.find_spec("deepspeed"):
        pytest.skip("it is installed")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", wish(run=replace(settings(), strategy=strategy)))
    assert not (tmp_path / "run").exists()


def test_patience_without_validation_is_refused() -> None:
    with pytest.raises(UserError, match="patience counts validations"):
        FinetuneSettings(patience=2)
