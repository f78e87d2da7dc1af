"""EAH inside an unmodified ``LlamaForCausalLM`` against the authors' own run on their own decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from lit_simignore.interventions.eah import EAH
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "official"
LAST = 64

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"reference outputs are not here: {FOLDER}")


def reference(seed: int) -> tuple[dict[str, Any], dict[str, torch.Tensor], LlamaForCausalLM]:
    with safe_open(FOLDER / f"eah_seed{seed}.safetensors", "pt") as file:
        constants = {name: json.loads(value) for name, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = LlamaConfig(
        **{name: constants[name] for name in names},
        rms_norm_eps=float(constants["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": float(constants["rope_theta"])},
        max_position_embeddings=4096,
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({name[2:]: value for name, value in tensors.items() if name.startswith("w.")})
    return constants, tensors, model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", [1, 5])
def test_the_released_preset_reproduces_the_authors_run(seed: int, attention: str) -> None:
    constants, tensors, model = reference(seed)
    model.set_attn_implementation(attention)
    embeds = tensors["inputs_embeds"]
    visual = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    visual[:, constants["image_start"] : constants["image_end_exclusive"]] = True
    rule = EAH.preset("released", layer_idx=constants["eah_layer_index"], threshold=float(constants["threshold"]))
    with torch.no_grad():
        dense = model(inputs_embeds=embeds).logits[0, -LAST:]
        with attach(model, rule) as trace, visual_columns(visual):
            logits = model(inputs_embeds=embeds).logits[0, -LAST:]
    (edit,) = trace.edits
    assert edit.layer_idx == constants["eah_layer_index"]
    assert torch.equal(edit.found["sink_counts"][0].long(), tensors["head_counts"].long())
    assert int(edit.found["winning_head"][0]) == int(tensors["winning_head"])
    assert float((dense - tensors["dense_logits"].reshape(dense.shape)).abs().max()) < 1e-3
    assert float((logits - tensors["expected_logits"].reshape(logits.shape)).abs().max()) < 1e-3
    assert float((dense - logits).abs().max()) > 1e-2


@pytest.mark.parametrize("seed", [1, 5])
def test_the_broadcast_map_is_the_authors(seed: int) -> None:
    """The eager kernel shows its maps: after the edit all heads have the winner's."""
    constants, tensors, model = reference(seed)
    model.set_attn_implementation("eager")
    embeds = tensors["inputs_embeds"]
    visual = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    visual[:, constants["image_start"] : constants["image_end_exclusive"]] = True
    rule = EAH.preset("released", layer_idx=constants["eah_layer_index"], threshold=float(constants["threshold"]))
    shown: list[torch.Tensor] = []
    layer = model.model.layers[constants["eah_layer_index"]].self_attn
    handle = layer.register_forward_hook(lambda module, args, output: shown.append(output[1]))
    with torch.no_grad(), attach(model, rule), visual_columns(visual):
        model(inputs_embeds=embeds)
    handle.remove()
    rows = shown[0][0, :, -1]
    expected = tensors["broadcast_last_row"].reshape(rows.shape)
    assert float((rows - expected).abs().max()) < 1e-6
