"""A grid says where a visual token looks: a change in one cell of the picture changes the token of that cell alone.

In a vision tower whose attention is switched off nothing spreads, so the tokens that change are exactly those whose
pixels changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.prepare import prepare
from lit_simignore.types import Role, Sample, Segment
from tests.family_reference import features_of
from tests.tiny_checkpoints import PROCESSORS
from tests.tiny_families import FamilyBatch, tiny_family

# (height, width) that the processor leaves as they are, and the grid that they make
PICTURES = {
    "gemma3": ((24, 24), (2, 2)),
    "idefics3": ((24, 24), (2, 2)),
    "internvl": ((24, 24), (2, 2)),
    "llava": ((24, 24), (4, 4)),
    "mistral3": ((16, 32), (2, 4)),
    "paligemma": ((24, 24), (4, 4)),
    "qwen2_5_vl": ((32, 48), (4, 6)),
    "qwen2_vl": ((32, 48), (4, 6)),
    "qwen3_vl": ((32, 48), (4, 6)),
    "smolvlm": ((24, 24), (2, 2)),
}
WITHOUT_GRID = {"instructblip", "llava_next", "llava_onevision"}
OUTPUTS = ("out_proj", "o_proj", "proj", "projection_layer")


def test_every_family_has_a_grid_or_says_why_not():
    assert set(PICTURES) | WITHOUT_GRID == set(PROCESSORS)


def without_attention(name: str) -> Any:
    model, silenced = tiny_family(name), 0
    for path, module in model.named_modules():
        inside = "vision" in path or "visual" in path
        if inside and path.rpartition(".")[2] in OUTPUTS and "att" in path:
            torch.nn.init.zeros_(module.weight)
            silenced += 1
    assert silenced >= 2, "no attention was found to switch off"
    return model


@pytest.mark.parametrize("name", PICTURES)
def test_a_cell_of_the_picture_is_a_cell_of_the_grid(name):
    model, processor = without_attention(name), PROCESSORS[name]()
    family_of(model.config).complete_processor(processor, model.config)
    (height, width), (rows, cols) = PICTURES[name]
    plain = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    row, col = rows - 1, 0
    marked = plain.copy()
    down, right = height // rows, width // cols
    marked[row * down : (row + 1) * down, col * right : (col + 1) * right] ^= 128
    found = []
    for pixels in (plain, marked):
        sample = Sample("s", (Segment("How many dog left ?", Role.QUESTION),), (Image.fromarray(pixels),))
        inputs, _ = prepare(processor, [sample])
        with torch.no_grad(), attach(model) as trace:
            model(**inputs)
            found.append(features_of(model, FamilyBatch(dict(inputs), [], [])))
    changed = (found[0] != found[1]).any(-1).nonzero()[:, 0].tolist()
    assert trace.grids == [((rows, cols),)]
    assert changed == [row * cols + col]
