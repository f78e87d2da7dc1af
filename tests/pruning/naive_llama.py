"""A Llama decoder written out plainly, which drops and merges as its pruners say: the oracle of the layer stages.

One prompt, no batch, no cache, no padding, full attention maps. Weights go by their Hugging Face names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.types import Selection
from tests.pruning.released import Released


@dataclass
class Stage:
    """What one stage saw and decided."""

    features: Features
    selection: Selection
    positions_after: Tensor
    columns_after: Tensor


@dataclass
class Prompt:
    """Rows of a prompt at some depth: ``hidden`` ``(L, D)``, rotary ``positions`` and original ``columns`` ``(L,)``."""

    hidden: Tensor
    positions: Tensor
    columns: Tensor
    is_visual: Tensor
    after_image: Tensor

    def keep(self, rows: Tensor, renumber: bool) -> Prompt:
        """The same prompt with only ``rows`` left."""
        positions = torch.arange(len(rows)) if renumber else self.positions[rows]
        parts = (self.columns, self.is_visual, self.after_image)
        return Prompt(self.hidden[rows], positions, *(part[rows] for part in parts))


@dataclass
class NaiveLlama:
    """A decoder with the weights and sizes of one file of reference vectors."""

    reference: Released
    prefix: str = "w."
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heads = self.reference.count("num_attention_heads")
        self.num_layers = self.reference.count("num_hidden_layers")

    def weight(self, name: str) -> Tensor:
        return self.reference[f"{self.prefix}{name}.weight"]

    def norm(self, rows: Tensor, name: str) -> Tensor:
        scale = rows.square().mean(-1, keepdim=True).add(self.reference.number("rms_norm_eps")).rsqrt()
        return rows * scale * self.weight(name)

    def rope(self, positions: Tensor) -> Tensor:
        """``(2, n, d)`` cosine and sine."""
        width = self.reference.count("hidden_size") // self.heads
        frequencies = self.reference.number("rope_theta") ** (-torch.arange(0, width, 2) / width)
        angles = positions[:, None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return torch.stack([angles.cos(), angles.sin()])

    def rotate(self, heads: Tensor, rope: Tensor) -> Tensor:
        first, second = heads.chunk(2, dim=-1)
        return heads * rope[0] + torch.cat([-second, first], dim=-1) * rope[1]

    def attend(self, prompt: Prompt, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities ``(H, L, L)``, rotated keys ``(H, L, d)`` and values ``(H, L, d)`` of a layer."""
        name = f"layers.{layer}"
        rows = self.norm(prompt.hidden, f"{name}.input_layernorm")

        def split(kind: str) -> Tensor:
            return (
                (rows @ self.weight(f"{name}.self_attn.{kind}_proj").T).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            )

        rope = self.rope(prompt.positions)
        query, key = self.rotate(split("q"), rope), self.rotate(split("k"), rope)
        logits = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        return logits.masked_fill(hidden, -torch.inf).softmax(-1), key, split("v")

    def layer(self, prompt: Prompt, layer: int) -> tuple[Tensor, Tensor]:
        """Run a layer in place; its attention probabilities and keys."""
        name = f"layers.{layer}"
        probabilities, key, value = self.attend(prompt, layer)
        mixed = (probabilities @ value).transpose(0, 1).flatten(1)
        hidden = prompt.hidden + mixed @ self.weight(f"{name}.self_attn.o_proj").T
        rows = self.norm(hidden, f"{name}.post_attention_layernorm")
        gate = torch.nn.functional.silu(rows @ self.weight(f"{name}.mlp.gate_proj").T)
        up = rows @ self.weight(f"{name}.mlp.up_proj").T
        prompt.hidden = hidden + (gate * up) @ self.weight(f"{name}.mlp.down_proj").T
        return probabilities, key

    def run(
        self, embeds: Tensor, start: int, num_visual: int, pruners: Sequence[Pruner], kept: Tensor | None = None
    ) -> Tensor:
        """``(L', D)`` rows after the final norm.

        Args:
            embeds: ``(L, D)`` input rows; the visual tokens are ``start .. start + num_visual - 1``.
            start: column of the first visual token.
            num_visual: visual tokens.
            pruners: methods, split into their stages here.
            kept: visual tokens that enter at all, for a drop before the decoder that keeps positions.
        """
        columns = torch.arange(len(embeds))
        is_visual = (columns >= start) & (columns < start + num_visual)
        prompt = Prompt(embeds, columns, columns, is_visual, columns >= start + num_visual)
        if kept is not None:
            prompt = prompt.keep(torch.cat([columns[:start], kept + start, columns[start + num_visual :]]), False)
        entered = prompt.hidden
        first = (entered[prompt.is_visual], entered[prompt.after_image])
        stages = {stage.stage: stage for pruner in pruners for stage in pruner.stages()}
        seen: tuple[Tensor, Tensor] | None = None
        for layer in range(self.num_layers):
            if layer in stages:
                assert seen is not None
                prompt = self.drop(prompt, stages[layer], layer, seen, first)
            seen = self.layer(prompt, layer)
        return self.norm(prompt.hidden, "norm")

    def drop(
        self, prompt: Prompt, stage: Pruner, layer: int, seen: tuple[Tensor, Tensor], first: tuple[Tensor, Tensor]
    ) -> Prompt:
        """Ask ``stage``, and shorten the prompt."""
        features = self.features(prompt, layer, seen, first)
        selection = stage.choose(features)
        visual = prompt.is_visual.nonzero().flatten()
        rows = torch.arange(len(prompt.hidden))
        if selection.merged is not None:
            prompt.hidden = prompt.hidden.index_copy(0, visual[selection.kept], selection.merged)
        stay = ~prompt.is_visual
        stay[visual[selection.kept]] = True
        after = prompt.keep(rows[stay], stage.positions == "renumber")
        self.stages.append(Stage(features, selection, after.positions, after.columns))
        return after

    def features(
        self, prompt: Prompt, layer: int, seen: tuple[Tensor, Tensor], first: tuple[Tensor, Tensor]
    ) -> Features:
        probabilities, keys = seen
        visual, text = prompt.is_visual, prompt.after_image
        normed = self.norm(prompt.hidden, "norm")
        rope = self.rope(prompt.positions)
        return Features(
            visual=prompt.hidden[visual],
            text=prompt.hidden[text],
            query_attention=probabilities[:, -1, visual],
            own_attention=self.attend(prompt, layer)[0][:, -1, visual],
            text_attention=probabilities[:, text][:, :, visual],
            layer_keys=keys[:, visual],
            text_keys=keys[:, text],
            normed_visual=normed[visual],
            normed_text=normed[text],
            input_visual=first[0],
            input_text=first[1],
            visual_rope=rope[:, visual],
            text_rope=rope[:, text],
            visual_columns=prompt.columns[visual],
            text_columns=prompt.columns[text],
            num_input=len(first[0]),
        )
