"""Training the bundled model: interrupted and resumed equals uninterrupted; the export loads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lit_simignore.pico import train as training
from lit_simignore.pico.config import Alignment, PicoConfig
from lit_simignore.pico.module import LitPico
from lit_simignore.types import UserError


def tiny(output, **fields):
    stages = {"text_steps": 1, "vision_steps": 1, "easy_steps": 1, "hard_from": 4, "final_from": 5, "decay_steps": 2}
    sizes = {"batch_size": 2, "slots": 3, "text_rows": 2, "warmup_steps": 2}
    return PicoConfig(output=str(output), steps=6, **{**stages, **sizes, **fields})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_rate_rises_stays_and_falls_to_zero():
    module = LitPico(tiny("unused"))
    assert [module.rate(step) for step in range(7)] == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = training.train(tiny(tmp_path / "whole"))

    class Killed(Exception):
        pass

    def stop_after_three(self, trainer, module, *_):
        if int(module.step) == 3:
            trainer.save_checkpoint(self.output / "last.ckpt")
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training.StepLog, "on_train_batch_end", stop_after_three)
        with pytest.raises(Killed):
            training.train(tiny(tmp_path / "cut"))
    resumed = training.train(tiny(tmp_path / "cut"))
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("alignment", list(Alignment))
def test_the_export_is_a_plain_folder_with_its_recipe(tmp_path, alignment):
    folder = training.train(tiny(tmp_path, alignment=alignment))
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration" and processor.tokenizer.padding_side == "left"
    assert model.dtype == torch.float16
    assert json.loads((folder / "recipe.json").read_text())["alignment"] == alignment.value
    assert not any("probe" in name for name in weights(folder))


def test_a_torch_without_the_optimiser_is_named(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"torch >= 2\.9"):
        training.train(tiny(tmp_path))
