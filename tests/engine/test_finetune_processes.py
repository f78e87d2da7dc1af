"""Several processes train as one: the same losses, the same weights, the same validation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_simignore.data.conversations import Conversation
from lit_simignore.engine.finetune import Evaluations, FinetuneSettings, _Finetuning, finetune
from lit_simignore.engine.finetune_tuning import Tuning
from lit_simignore.engine.finetuner import Optimization
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.types import Method
from tests.engine.finetuning import Losses, conversations, trained_logits
from tests.engine.forked import run_forked
from tests.engine.toys import BASELINE, Toy, model_and_processor, settings
from tests.tiny_models import tiny_batch, tiny_llava

PRUNED = Method("simignore", (Simignore(keep_ratio=0.25),))


def talks() -> list[Conversation]:
    """Every other one has no picture, so that in some step a process has none."""
    found = conversations(8, lengths=True)
    asked = found[1].turns[0]
    bare = replace(asked, parts=tuple(part for part in asked.parts if part is not None))
    without = [replace(talk, turns=(bare, talk.turns[1]), images=()) for talk in found]
    return [without[i] if i % 4 < 2 else talk for i, talk in enumerate(found)]


def train(folder: Path, kind: str, **run: Any) -> list[float]:
    """The whole ``finetune`` on the tiny model; returns the losses of the steps."""
    losses = Losses()
    wish = FinetuneSettings(
        steps=4,
        batch_size=4,
        checkpoint_every=2,
        validate_every=2,
        validation_samples=5,
        tuning=Tuning(kind=kind, gradient_checkpointing=kind == "lora"),
        optimization=Optimization(lr=1e-3, warmup_ratio=0.0),
        run=replace(settings(**run), batch_size=2),
    )
    asked = Evaluations(Toy(), (BASELINE, PRUNED), before=False, after=False)
    build = _Finetuning._trainer

    def watched(self: _Finetuning) -> Any:
        trainer = build(self)
        trainer.callbacks.insert(0, losses)
        return trainer

    _Finetuning._trainer = watched  # type: ignore[method-assign]
    try:
        finetune(model_and_processor, talks(), PRUNED, folder, wish, asked)
    finally:
        _Finetuning._trainer = build  # type: ignore[method-assign]
    return losses.values


def validations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("alone")
    known: dict[str, Any] = {}

    def answer(kind: str) -> Any:
        if kind not in known:
            known[kind] = folder / kind, train(folder / kind, kind)
        return known[kind]

    return answer


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        ("ddp", "full"),
        pytest.param("fsdp2", "lora", marks=pytest.mark.slow),
        pytest.param("ddp", "lora", marks=pytest.mark.slow),
        pytest.param("fsdp2", "full", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_and_validate_as_one(tmp_path: Path, alone: Any, strategy: str, kind: str) -> None:
    folder, expected = alone(kind)
    work = tmp_path / "two"
    found = run_forked(lambda rank: train(work, kind, devices=2, strategy=strategy), tmp_path / "answers")
    assert found[0] == found[1] and len(expected) == 4
    assert found[0] == pytest.approx(expected, abs=1e-4)
    one, two = trained_logits(folder), trained_logits(work)
    assert float((one - two).abs().max()) < 1e-2 and float((one - trained_logits_before()).abs().max()) > 0.1
    assert validations(work) == validations(folder) and len(validations(work)) == 2


def trained_logits_before() -> torch.Tensor:
    with torch.no_grad():
        return tiny_llava()(**tiny_batch().inputs).logits


def test_early_stopping_ends_after_validations_without_a_better_one(tmp_path: Path) -> None:
    class Always(Toy):
        def score(self, parsed: str | None, sample: Any) -> float | None:
            return 1.0

    asked = Evaluations(Always(), (BASELINE, PRUNED), before=False, after=False)
    wish = FinetuneSettings(
        steps=8, batch_size=2, validate_every=1, validation_samples=2, patience=2, checkpoint_every=1, run=settings()
    )
    finetune(model_and_processor, talks(), PRUNED, tmp_path, wish, asked)
    assert [line["step"] for line in validations(tmp_path)] == [1, 2, 3]
    assert validations(tmp_path)[0]["accuracy"] == {"baseline": 1.0, "simignore": 1.0}
    assert {"prompt", "answer", "output", "score", "num_kept"} == set(validations(tmp_path)[0]["samples"][0])
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_settings_that_lose_precision_are_refused() -> None:
    from lit_simignore.types import UserError

    with pytest.raises(UserError, match="would round the adapters at every step; use bf16-mixed"):
        FinetuneSettings(run=EvaluationSettings(precision="bf16-true"))
