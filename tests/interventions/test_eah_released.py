"""EAH against the authors' own run: sink counts, winning head, broadcast rows and logits of their modified decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from lit_simignore.interventions.base import KernelInputs, LayerContext
from lit_simignore.interventions.eah import EAH
from tests.pruning.naive_llama import NaiveLlama, Prompt
from tests.pruning.released import Released

SEEDS = (1, 5)


@dataclass
class EditedLlama(NaiveLlama):
    """The plain decoder with EAH in front of the attention of its layers."""

    rule: EAH = field(default_factory=EAH)
    memory: dict[str, Tensor] = field(default_factory=dict)
    maps: Tensor | None = None

    def attend(self, prompt: Prompt, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        if layer not in self.rule.layers(self.num_layers):
            return super().attend(prompt, layer)
        rows = self.norm(prompt.hidden, f"layers.{layer}.input_layernorm")

        def split(kind: str) -> Tensor:
            heads = rows @ self.weight(f"layers.{layer}.self_attn.{kind}_proj").T
            return heads.unflatten(-1, (self.heads, -1)).transpose(0, 1)

        rope = self.rope(prompt.positions)
        query, key, value = self.rotate(split("q"), rope), self.rotate(split("k"), rope), split("v")
        scaling = query.shape[-1] ** -0.5
        alive = torch.ones(1, len(rows), dtype=torch.bool)
        context = LayerContext(layer, self.num_layers, prompt.is_visual[None], alive, scaling, memory=self.memory)
        edited = self.rule.edit(KernelInputs(query[None], key[None], value[None]), context)
        logits = edited.query[0] @ edited.key[0].transpose(-1, -2) * scaling
        later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        self.maps = logits.masked_fill(later, -torch.inf).softmax(-1)
        return self.maps, key, value


def run(reference: Released, rule: EAH) -> tuple[EditedLlama, Tensor]:
    llama = EditedLlama(reference, prefix="w.model.", rule=rule)
    start, end = reference.count("image_start"), reference.count("image_end_exclusive")
    rows = llama.run(reference["inputs_embeds"][0], start, end - start, [])
    return llama, rows @ reference["w.lm_head.weight"].T


def released_rule(reference: Released) -> EAH:
    layer, threshold = reference.count("eah_layer_index"), reference.number("threshold")
    return EAH.preset("released", layer_idx=layer, threshold=threshold)


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_winner_rows_and_logits_are_the_released_ones(seed: int) -> None:
    reference = Released("official", f"eah_seed{seed}")
    llama, logits = run(reference, released_rule(reference))
    assert llama.memory["sink_counts"][0].tolist() == reference["head_counts"].tolist()
    assert llama.memory["winning_head"].tolist() == reference["winning_head"].tolist()
    assert llama.maps is not None
    assert torch.allclose(llama.maps[:, -1], reference["broadcast_last_row"], atol=1e-7, rtol=1e-4)
    assert torch.equal(llama.maps, llama.maps[:1].expand_as(llama.maps))
    assert float((logits[-64:] - reference["expected_logits"][0]).abs().max()) < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_tells_edited_from_unedited(seed: int) -> None:
    reference = Released("official", f"eah_seed{seed}")
    edited, dense = reference["expected_logits"], reference["dense_logits"]
    assert float((edited - dense).abs().max()) > 0.01
    _, logits = run(reference, EAH(threshold=1e6))
    assert float((logits[-64:] - dense[0]).abs().max()) < 1e-3
