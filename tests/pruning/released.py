"""Outputs of the authors' own selection code on small tensors: what the pruners' tests compare with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lit_simignore.pruning.base import Features

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


class Released:
    """One file of reference vectors: tensors by item access, parameters by :meth:`number`."""

    def __init__(self, folder: str, name: str) -> None:
        path = REFERENCE / folder / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"the reference vectors shared/reference/{folder} do not lie beside this checkout")
        with safe_open(path, framework="pt") as file:
            self.parameters = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def number(self, key: str) -> float:
        return float(self.parameters[key])

    def count(self, key: str) -> int:
        return int(self.parameters[key])

    def numbers(self, key: str) -> list[float]:
        return json.loads(self.parameters[key])


def released(method: str, seed: int) -> Released:
    """``pruners/<method>_seed<seed>``; skips the test where the folder is absent."""
    return Released("pruners", f"{method}_seed{seed}")


def identity(rows: Tensor) -> Tensor:
    """The projector of the reference runs."""
    return rows


def vision_features(hidden: Tensor, **fields: object) -> Features:
    """Features of one image whose projector is the identity; ``hidden`` ``(1 + I, C)`` has the class token first."""
    return Features(
        visual=hidden[1:],
        text=hidden[:0],
        vision_hidden=hidden[1:],
        vision_cls_hidden=hidden[:1],
        project=identity,
        **fields,  # type: ignore[arg-type]
    )


def random_image(num_patches: int, width: int = 8, num_heads: int = 2, seed: int = 0, num_images: int = 1) -> Features:
    """Random features with everything that a vision-side rule reads."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = draw(num_patches, width)
    return Features(
        visual=hidden,
        text=hidden[:0],
        vision_hidden=hidden,
        vision_cls_hidden=draw(num_images, width),
        vision_attention=draw(num_heads, num_patches).softmax(dim=1),
        vision_keys=draw(num_heads, num_patches, width // num_heads),
        vision_last_keys=draw(num_patches, width),
        vision_last_cls_key=draw(num_images, width),
        vision_last_cls_query=3 * draw(num_images, width),
        joint_visual=draw(num_patches, width),
        text_tower=draw(2, width),
        project=identity,
    )


def prumerge_features(reference: Released) -> Features:
    """What PruMerge and PruMerge+ read."""
    return vision_features(
        reference["hidden_states"][0],
        vision_last_cls_query=reference["queries"][0, :1],
        vision_last_cls_key=reference["keys"][0, :1],
        vision_last_keys=reference["keys"][0, 1:],
    )
