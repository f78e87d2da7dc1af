"""Loading local checkpoints, and what is said when that fails."""

from __future__ import annotations

import json

import pytest
import torch

from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.load import load
from lit_simignore.surgery.prepare import prepare
from lit_simignore.types import UserError
from tests.tiny_models import tiny_llava, tiny_processor, tiny_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_llava().to(torch.bfloat16).save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def test_a_saved_model_comes_back_with_its_processor(folder):
    model, processor = load(folder, dtype=torch.float32)
    inputs, _ = prepare(processor, [tiny_sample("a", "What colour is the cat ?")])
    expected, _ = prepare(tiny_processor(), [tiny_sample("a", "What colour is the cat ?")])
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert not model.training and processor.tokenizer.padding_side == "left"
    reference = tiny_llava()
    for parameter in reference.parameters():  # what the file holds; rotary buffers stay exact
        parameter.data = parameter.data.to(torch.bfloat16).float()
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, reference(**inputs).logits, atol=1e-5)


def test_the_default_dtype_is_float32_without_an_accelerator(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load(folder)[0].dtype == torch.float32
    assert load(folder, dtype="auto")[0].dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load(folder)[0].dtype == torch.bfloat16


def test_the_attention_implementation_is_passed_on(folder):
    assert load(folder, attn_implementation="eager")[0].config._attn_implementation == "eager"


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "none")
    assert "\n" not in str(caught.value) and "none" in str(caught.value)


def test_an_unknown_family_is_refused_before_weights_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    with pytest.raises(UserError, match="'blip-2' belongs to no family"):
        load(tmp_path)


def test_a_bundled_model_that_is_missing_says_so(monkeypatch, tmp_path):
    from lit_simignore.surgery import load as module

    monkeypatch.setattr(module, "ASSETS", tmp_path)
    with pytest.raises(UserError, match="bundled model 'pico' is missing"):
        load("pico")


def test_old_processor_files_are_completed(folder):
    processor = tiny_processor()
    processor.patch_size = processor.vision_feature_select_strategy = None
    processor.num_additional_image_tokens = 0
    config = tiny_llava().config
    family_of(config).complete_processor(processor, config)
    inputs, _ = prepare(processor, [tiny_sample("a", "cat ?")])
    assert int((inputs["input_ids"] == 4).sum()) == 16
