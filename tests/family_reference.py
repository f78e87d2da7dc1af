"""The oracle for families: the untouched model, told which columns to hide and where the whole prompt's tokens are.

As :mod:`tests.masked_reference`, for models with other positions, encoders and ways of generating.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from tests.masked_reference import IMAGE_ID, generate
from tests.tiny_families import FamilyBatch


def features_of(model: Any, batch: FamilyBatch) -> Tensor:
    """``(sum of visual tokens, D)`` projected visual tokens in batch order, by the model's own encoder."""
    owner = model.base_model if hasattr(model.base_model, "get_image_features") else model
    asked = inspect.signature(owner.get_image_features).parameters
    given = {name: value for name, value in batch.inputs.items() if name in asked and name != "kwargs"}
    features = owner.get_image_features(**given, return_dict=True).pooler_output
    return torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in features])


def forward_positions(model: Any, batch: FamilyBatch) -> Tensor:
    """The positions that forward gives the whole prompt by itself."""
    if hasattr(model.base_model, "get_rope_index"):
        return _rope_index(model, batch)
    first = 1 if model.config.model_type == "paligemma" else 0
    return torch.arange(first, first + batch.length)[None]


def generate_inputs(model: Any, batch: FamilyBatch, mask: Tensor) -> dict[str, Any]:
    """Arguments of ``generate`` with columns hidden, at the positions of the whole prompt."""
    if model.config.model_type == "instructblip":
        ids = batch.inputs["input_ids"]
        embeds = model.get_input_embeddings()(ids)
        embeds[ids == IMAGE_ID] = features_of(model, batch)
        return {"input_ids": ids, "inputs_embeds": embeds, "attention_mask": mask, "position_ids": _counted(batch)}
    many_axes = hasattr(model.base_model, "get_rope_index")
    positions = _rope_index(model, batch) if many_axes else _counted(batch)
    return {**batch.inputs, "attention_mask": mask, "position_ids": positions}


def hidden_generate(
    model: Any, batch: FamilyBatch, mask: Tensor, tokens: int = 8, **options: Any
) -> tuple[Tensor, Tensor]:
    """Sequences and logits of the untouched model with columns hidden."""
    inner = model.language_model if model.config.model_type == "instructblip" else model
    return generate(inner, generate_inputs(model, batch, mask), tokens, **options)[:2]


def _counted(batch: FamilyBatch) -> Tensor:
    mask = batch.inputs["attention_mask"]
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)


def _rope_index(model: Any, batch: FamilyBatch) -> Tensor:
    asked = inspect.signature(model.base_model.get_rope_index).parameters
    return model.base_model.get_rope_index(**{k: v for k, v in batch.inputs.items() if k in asked})[0]
