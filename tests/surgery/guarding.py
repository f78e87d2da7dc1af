"""What the tests of surprising calls share: parts that are attached, a refusal in one line, the model that hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.masked_reference import (
    HiddenFromLayers,
    hidden_by_stage,
)

HALF, STAGE = RandomTokens(keep_ratio=0.5), FastV(layer_idx=2, num_keep=5)
ENTRY_AND_STAGE = (HALF, STAGE)


@dataclass(kw_only=True)
class HalfAt(RandomTokens):
    """Reads nothing, inside the decoder."""

    layer_idx: int = 2


def refused(model: Any, inputs: dict[str, Any], *parts: Any, words: str, **options: Any) -> None:
    """The call is refused in one line; ``generate`` where options are given, else ``forward``."""
    with torch.no_grad(), pytest.raises(UserError, match=words) as caught, attach(model, *parts):
        model.generate(**inputs, do_sample=False, **options) if options else model(**inputs)
    assert "\n" not in str(caught.value)


def hiding(model: Any, inputs: dict[str, Any], trace: Any) -> HiddenFromLayers:
    return HiddenFromLayers(model, hidden_by_stage(inputs, trace))
