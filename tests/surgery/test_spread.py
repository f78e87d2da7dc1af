"""A decoder whose layers lie on several devices, as ``device_map`` leaves it, answers as one on a single device.

accelerate's own hooks around the layers are installed. Devices that are not there are pretended: what CUDA refuses to
mix is refused too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_simignore as ls
from lit_simignore.engine import shared_images
from lit_simignore.engine.generation import answer, prompts_of
from lit_simignore.engine.shared_images import answer_shared, find_sharing
from tests.pretended_devices import Pretended, pretended_devices
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_image, tiny_llava, tiny_processor, tiny_sample

hooks = pytest.importorskip("accelerate.hooks")
big_modeling = pytest.importorskip("accelerate.big_modeling")

DECODER = "model.language_model"
FRONT = ("model.vision_tower", "model.multi_modal_projector", f"{DECODER}.embed_tokens", f"{DECODER}.rotary_emb")
BACK = (f"{DECODER}.norm", "lm_head")
PARTS: dict[str, tuple[Any, ...]] = {
    "untouched": (),
    "simignore": (ls.Simignore(num_keep=6),),
    "masked": (ls.Simignore(num_keep=6, apply="mask"),),
    "fastv on the first device": (ls.FastV(layer_idx=1, num_keep=4),),
    "fastv at the border": (ls.FastV(layer_idx=2, num_keep=4),),
    "fastv behind it": (ls.FastV(layer_idx=3, num_keep=4),),
    "pyramiddrop on both": (ls.PyramidDrop(keep_ratio=[0.5, 0.25], layers=[1, 3]),),
    "dart": (ls.DART(num_keep=6),),
    "visionzip": (ls.VisionZip(num_keep=6),),
    "renumbered on both": (
        ls.Simignore(num_keep=8, positions="renumber"),
        ls.FastV(layer_idx=1, num_keep=6, positions="renumber"),
        ls.FastV(layer_idx=3, num_keep=4, positions="renumber"),
    ),
    "eah on both": (ls.EAH(layer_idx=[1, 3]),),
    "simignore, fastv and eah": (ls.Simignore(num_keep=8), ls.FastV(layer_idx=2, num_keep=4), ls.EAH(layer_idx=3)),
    "vcd": (ls.VCD(),),
}


def device_map(of_layer: Any, front: Any, back: Any) -> dict[str, Any]:
    layers = {f"{DECODER}.layers.{layer}": of_layer(layer) for layer in range(4)}
    return {**dict.fromkeys(FRONT, front), **layers, **dict.fromkeys(BACK, back)}


def generated(model: Any, parts: tuple[Any, ...], inputs: dict[str, Tensor]) -> Any:
    with torch.no_grad(), ls.attach(model, *parts, spans=tiny_batch().spans) as trace:
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)
    return out, [kept.tolist() for kept in trace.kept]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    model = tiny_llava()
    return {name: generated(model, parts, tiny_batch().inputs) for name, parts in PARTS.items()}


@pytest.fixture(scope="module")
def two_devices() -> Any:
    model = tiny_llava()
    places = device_map(lambda layer: layer // 2, 0, 1)
    with pretended_devices():
        devices = {name: torch.device("cuda", place) for name, place in places.items()}
        hooks.attach_align_device_hook_on_blocks(
            model,
            execution_device={"": torch.device("cuda", 0), **devices},
            offload=dict.fromkeys(places, False),
            skip_keys=model._skip_keys_device_placement,
        )
    return model


@pytest.mark.parametrize("name", PARTS)
def test_layers_on_two_devices(two_devices: Any, alone: dict[str, Any], name: str) -> None:
    first = torch.device("cuda", 0)
    with pretended_devices():
        inputs = {key: Pretended(value, first) for key, value in tiny_batch().inputs.items()}
        out, kept = generated(two_devices, PARTS[name], inputs)
    assert out.device == first
    assert torch.equal(out.held, alone[name][0]) and kept == alone[name][1]


def test_the_pretended_devices_refuse_what_cuda_refuses() -> None:
    with pretended_devices():
        one, other = torch.arange(3, device="cuda:0"), torch.tensor([1, 2, 3], device="cuda:1")
        for mix in (
            lambda: one + other,
            lambda: one + torch.arange(3),
            lambda: one[other],
            lambda: torch.cat([one, other]),
        ):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mix()
        assert (one + other.to(one.device)).tolist() == [1, 3, 5]
        assert one[torch.tensor([2, 0])].tolist() == [2, 0] and (one * torch.tensor(2)).device == one.device


@pytest.mark.parametrize("name", ["untouched", "simignore", "fastv at the border", "simignore, fastv and eah"])
def test_layers_kept_on_disk_between_calls(tmp_path: Path, alone: dict[str, Any], name: str) -> None:
    model = tiny_llava()
    places = device_map(lambda layer: "disk" if layer >= 2 else "cpu", "cpu", "cpu")
    model = big_modeling.dispatch_model(
        model, places, main_device="cpu", offload_dir=os.fspath(tmp_path), skip_keys=model._skip_keys_device_placement
    )
    assert model.model.language_model.layers[3].mlp.up_proj.weight.device.type == "meta"
    out, kept = generated(model, PARTS[name], tiny_batch().inputs)
    assert torch.equal(out, alone[name][0]) and kept == alone[name][1]


def test_a_cache_on_two_devices_is_copied_for_questions_about_one_picture(
    two_devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [
        replace(tiny_sample(f"q{i}", question), images=(tiny_image(i % 2),)) for i, question in enumerate(QUESTIONS)
    ]
    images = [[tiny_image(i % 2)] for i in range(len(samples))]
    model, processor = tiny_llava(), tiny_processor()
    alone = answer(model, processor, prompts_of(processor, samples, images, model), (), 4)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # which is below what is pretended
    monkeypatch.setattr(shared_images, "synchronize", lambda device: None)
    with pretended_devices():
        prompts = prompts_of(processor, samples, images, two_devices)
        sharing = find_sharing(two_devices, prompts, [str(i % 2) for i in range(len(samples))])
        assert sharing is not None and prompts.inputs["input_ids"].device == torch.device("cuda", 0)
        shared = answer_shared(two_devices, processor, prompts, images, sharing, 4)
    assert shared.outputs == alone.outputs
