"""Small things to fine-tune on, for tests: a tiny random model, a few conversations, a trainer that keeps quiet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lit_simignore.data.conversations import Conversation, conversation_of
from lit_simignore.data.conversations_batch import ConversationCollator
from lit_simignore.data.conversations_module import ConversationDataModule
from lit_simignore.engine.finetune_export import load_trained
from lit_simignore.engine.finetuner import LitFinetuner, Optimization
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.load import load
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava, tiny_processor, tiny_sample

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
}


def conversations(count: int = 8, num_images: int = 1, lengths: bool = False) -> list[Conversation]:
    """Questions of different lengths about different random pictures; answers too where ``lengths``."""
    samples = [tiny_sample(f"c{i}", QUESTIONS[i % len(QUESTIONS)], num_images=num_images) for i in range(count)]
    answers = ("A", "cat dog bird", "B red")
    if lengths:
        samples = [replace(sample, answer=answers[i % 3]) for i, sample in enumerate(samples)]
    return [conversation_of(sample) for sample in samples]


def data(batch_size: int = 4, micro: int | None = None, **options: Any) -> ConversationDataModule:
    """Batches of :func:`conversations`."""
    collator = ConversationCollator(tiny_processor(), options.pop("side", "left"))
    talks = conversations(lengths=options.pop("lengths", False))
    return ConversationDataModule(talks, collator, batch_size, micro, **options)


def module(*parts: object, lr: float = 0.01, **options: Any) -> LitFinetuner:
    """A finetuner of the tiny model; with Simignore at a quarter unless told otherwise."""
    torch.manual_seed(0)
    chosen = parts or (Simignore(keep_ratio=0.25),)
    wish = Optimization(lr=lr, warmup_ratio=0.0)
    return LitFinetuner(tiny_llava(), tiny_processor(), *chosen, optimization=wish, **options)


class Losses(L.Callback):
    """Notes the loss of every optimiser step."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.step = 0

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """A resumed training has taken steps already."""
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Read the logged loss once per step."""
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.values.append(float(trainer.callback_metrics["train/loss"]))


def fit(lit: LitFinetuner, source: ConversationDataModule, steps: int = 3, **options: Any) -> list[float]:
    """Train and return the losses."""
    losses = Losses()
    callbacks = [losses, *options.pop("callbacks", [])]
    settings = {"enable_checkpointing": False, **QUIET, **options}
    torch.manual_seed(1)  # adapters are drawn when the training begins
    trainer = L.Trainer(max_steps=steps, max_epochs=-1, callbacks=callbacks, **settings)
    trainer.fit(lit, source)
    return losses.values


def weights(lit: LitFinetuner) -> dict[str, torch.Tensor]:
    """What was trained."""
    return {name: value.detach().clone() for name, value in lit.named_parameters() if value.requires_grad}


def far(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference between two sets of weights of the same names."""
    assert first.keys() == second.keys() and first
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def folder_of(path: Path) -> set[str]:
    """Names of the files below ``path``."""
    return {str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file()}


def trained_logits(folder: Path) -> torch.Tensor:
    """Logits of the model, or of the tiny model with the adapter, that a training has left behind."""
    if (folder / "model").is_dir():
        model, _ = load(folder / "model")
    else:
        model = tiny_llava()
        load_trained(model, str(folder / "adapter"))
    with torch.no_grad():
        return model.eval()(**tiny_batch().inputs).logits
