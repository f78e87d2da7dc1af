"""The bundled models: plain Hugging Face folders, small, and able to do what their cards say."""

import json
import subprocess
import sys

import pytest
import torch

from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.metrics.patches import needed_recall
from lit_simignore.pico.architecture import build_config, build_tokenizer
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.load import ASSETS, BUNDLED, load
from lit_simignore.surgery.prepare import prepare

OUTSIDE = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
from PIL import Image
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="float32")
processor = AutoProcessor.from_pretrained(sys.argv[1])
content = [{"type": "image"}, {"type": "text", "text": "Is there a red circle in the image?"}]
text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
inputs = processor(images=[Image.new("RGB", (300, 200))], text=[text], return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=4)
print(processor.batch_decode(out[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0])
assert not any(name.startswith("lit_simignore") for name in sys.modules)
"""


@pytest.mark.parametrize("name", [BUNDLED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in BUNDLED[1:])])
def test_transformers_loads_and_runs_it_without_this_package(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, str(ASSETS / name)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1].rstrip(".") in ("yes", "no")


def test_both_together_stay_under_16_megabytes():
    files = [path for name in BUNDLED for path in (ASSETS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16e6


@pytest.mark.parametrize("name", BUNDLED)
def test_the_folder_holds_what_the_recipe_builds(name):
    saved = json.loads((ASSETS / name / "config.json").read_text())
    built = build_config().to_dict()
    for part in ("text_config", "vision_config"):
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            assert saved[part][key] == built[part][key]
    assert saved["text_config"]["num_hidden_layers"] >= 6 and saved["text_config"]["num_attention_heads"] >= 8
    tokenizer = json.loads((ASSETS / name / "tokenizer.json").read_text())
    assert tokenizer["model"]["vocab"] == json.loads(build_tokenizer().backend_tokenizer.to_str())["model"]["vocab"]
    recipe = json.loads((ASSETS / name / "recipe.json").read_text())
    assert recipe["alignment"] == ("words" if name == "pico" else "probe")


def answer(name, samples, *parts):
    model, processor = load(name, dtype=torch.float32)
    outputs, kept = [], []
    for start in range(0, len(samples), 40):
        batch = samples[start : start + 40]
        inputs, spans = prepare(processor, batch)
        with attach(model, *parts, spans=spans) as trace:
            ids = model.generate(**inputs, max_new_tokens=4)
        outputs += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        kept += [(k, g) for k, g in zip(trace.kept, trace.grids, strict=True)]
    return outputs, kept


def accuracy(benchmark, samples, outputs):
    scores = [benchmark.score(benchmark.parse(o, s), s) for o, s in zip(outputs, samples, strict=True)]
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("task", "least"), [("existence", 0.94), ("choice", 0.74)])
def test_pico_answers_about_scenes_it_never_saw(task, least):
    """The card's goals (97 % and 80 %) less three standard errors of this smaller sample."""
    benchmark = ShapesQA(tasks=[task], num_scenes=80)
    samples = benchmark.load()
    outputs, _ = answer("pico", samples)
    assert accuracy(benchmark, samples, outputs) >= least


def test_simignore_finds_needed_patches_in_the_aligned_model_only():
    """A quarter of the tokens: chance keeps a quarter of the needed patches."""
    samples = [s for s in ShapesQA(tasks=["existence"], num_scenes=60).load() if s.needed]
    recall = {}
    for name in BUNDLED:
        _, kept = answer(name, samples, Simignore(keep_ratio=0.25))
        found = [needed_recall(k.tolist(), s.needed, g) for (k, g), s in zip(kept, samples, strict=True)]
        recall[name] = sum(found) / len(found)
    assert recall["pico"] > 0.9
    assert recall["pico-unaligned"] < 0.6
