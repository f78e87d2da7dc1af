"""Methods that drop inside the decoder, for the tests of stages."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.types import Selection
from tests.masked_reference import (
    hidden_by_stage,
    reference_inputs,
)
from tests.surgery.test_stage0 import RAGGED, Ragged


@dataclass(kw_only=True)
class RaggedAt(Pruner):
    """Another number of tokens for every sample, before a layer."""

    layer_idx: int = 2
    factor: int = 1

    def choose(self, features: Features) -> Selection:
        inner = RandomTokens(num_keep=RAGGED[features.key] // self.factor, seed=self.layer_idx)
        return inner.choose(features)

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@dataclass(kw_only=True)
class SimilarAt(Simignore):
    """Simignore on hidden states."""

    layer_idx: int = 2


PARTS = [
    pytest.param((FastV(layer_idx=2, num_keep=5),), id="FastV"),
    pytest.param((RaggedAt(layer_idx=1),), id="ragged at 1"),
    pytest.param((RaggedAt(layer_idx=1), RaggedAt(layer_idx=3, factor=2)), id="ragged twice"),
    pytest.param((SimilarAt(layer_idx=3, num_keep=4),), id="similarity of hidden states"),
    pytest.param((PyramidDrop(layers=(1, 2, 3), keep_ratio=(0.75, 0.5, 0.25)),), id="PyramidDrop"),
    pytest.param((Simignore(num_keep=9), FastV(layer_idx=2, num_keep=4)), id="Simignore then FastV"),
    pytest.param((Simignore(num_keep=9, apply="mask"), FastV(layer_idx=2, num_keep=4)), id="masked, then FastV"),
    pytest.param((Ragged(), RaggedAt(layer_idx=2, factor=2)), id="ragged before and inside"),
]


def reference_for(batch, trace):
    """Entry drops as a mask and original positions, and the hidden columns of every stage."""
    entry = [stage for stage in trace.stages if stage.layer_idx is None]
    kept = entry[-1].kept if entry else [torch.arange(16)] * 3
    return reference_inputs(batch.inputs, kept), hidden_by_stage(batch.inputs, trace)
