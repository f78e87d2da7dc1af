"""Train the bundled model and export it as a plain Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lit_simignore.pico.architecture import build_processor
from lit_simignore.pico.config import PicoConfig
from lit_simignore.pico.module import LitPico
from lit_simignore.types import UserError


def train(config: PicoConfig) -> Path:
    """Run the recipe, or go on with it, and return the exported folder (``<output>/model``)."""
    if not hasattr(torch.optim, "Muon"):
        found = torch.__version__
        raise UserError(f"training pico needs torch >= 2.9 for torch.optim.Muon; found {found}: upgrade torch")
    if config.threads:
        torch.set_num_threads(config.threads)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    L.seed_everything(config.seed, verbose=False)
    module = LitPico(config)
    checkpoint = output / "last.ckpt"
    resume = str(checkpoint) if config.resume and checkpoint.is_file() else None
    if resume:
        module.step.fill_(int(torch.load(resume, weights_only=True)["state_dict"]["step"]))
    trainer = L.Trainer(
        accelerator="cpu" if not torch.cuda.is_available() else "auto",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=str(output),
        callbacks=[StepLog(output)],
    )
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    return export(module, output / "model")


class StepLog(L.Callback):
    """Prints and keeps a line of progress; saves a checkpoint that a later call goes on from."""

    def __init__(self, output: Path, every: int = 50, checkpoint_every: int = 250) -> None:
        self.output, self.every, self.checkpoint_every = output, every, checkpoint_every
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, LitPico)
        step = int(module.step)
        if step % self.every == 0:
            losses = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
            running = {k: round(v, 3) for k, v in module.progress().items()}
            line = {"step": step, "seconds": round(time.monotonic() - self.started, 1), **losses, "accuracy": running}
            with open(self.output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if step % self.checkpoint_every == 0:
            trainer.save_checkpoint(self.output / "last.ckpt")


def export(module: LitPico, folder: Path) -> Path:
    """Write config, generation config, tokenizer, processor, chat template and float16 safetensors."""
    model = module.model.eval()
    model.to(torch.float16).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    recipe = {k: getattr(v, "value", v) for k, v in dataclasses.asdict(module.config).items()}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return folder
