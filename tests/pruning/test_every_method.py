"""What holds for every method that is more than a score of visual against text."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch

from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.pruning.cdpruner import CDPruner
from lit_simignore.pruning.dart import DART
from lit_simignore.pruning.divprune import DivPrune
from lit_simignore.pruning.fastervlm import FasterVLM
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.prumerge import PruMerge
from lit_simignore.pruning.prumerge_plus import PruMergePlus
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.sparsevlm import SparseVLM
from lit_simignore.pruning.sparsevlm_plus import SparseVLMPlus
from lit_simignore.pruning.truncation import Truncation
from lit_simignore.pruning.visionzip import VisionZip
from lit_simignore.pruning.vispruner import VisPruner
from lit_simignore.types import UserError

METHODS: list[Pruner] = [
    CDPruner(num_keep=9),
    DART(num_keep=9),
    DivPrune(num_keep=9),
    FasterVLM(num_keep=9),
    FastV(num_keep=9),
    PruMerge(num_keep=9),
    PruMergePlus(num_keep=9),
    PyramidDrop(layers=(1,), num_keep=(9,)),
    SparseVLM(layers=(1,), num_keep=(9,)),
    SparseVLM.preset("released", layers=(1,), num_keep=(9,)),
    SparseVLMPlus(layers=(1,), num_keep=(9,)),
    Truncation(layer_idx=1),
    VisionZip(num_keep=9),
    VisionZip.preset("released", num_keep=9),
    VisPruner(num_keep=9),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def project(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows, rows], dim=-1)


def everything(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Features:
    """36 tokens of one image with every field filled."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    hidden, text = draw(36, 4), draw(5, 8)
    visual = project(hidden)
    return Features(
        visual=visual,
        text=text,
        key="sample",
        grids=((6, 6),),
        query_attention=draw(2, 36).softmax(1),
        vision_attention=draw(2, 36).softmax(1),
        vision_keys=draw(2, 36, 2),
        vision_hidden=hidden,
        vision_cls_hidden=draw(1, 4),
        vision_last_keys=draw(36, 4),
        vision_last_cls_key=draw(1, 4),
        vision_last_cls_query=draw(1, 4),
        project=project,
        text_tower=draw(2, 3),
        joint_visual=draw(36, 3),
        own_attention=draw(2, 36).softmax(1),
        text_attention=draw(2, 5, 36).softmax(2),
        layer_keys=draw(2, 36, 4),
        text_keys=draw(2, 5, 4),
        normed_visual=draw(36, 8),
        normed_text=draw(5, 8),
        input_visual=draw(36, 8),
        input_text=text,
        visual_rope=draw(2, 36, 4).abs() + 1,
        text_rope=draw(2, 5, 4).abs() + 1,
        visual_columns=torch.arange(3, 39, device=device),
        text_columns=torch.arange(39, 44, device=device),
        num_input=36,
    )


@each_method
def test_a_selection_is_well_formed_and_leaves_the_features_alone(method: Pruner) -> None:
    (stage,) = method.stages()
    features = everything()
    before = copy.deepcopy(features)
    selection = stage.choose(features)
    kept = selection.kept
    assert kept.dtype == torch.long and torch.equal(kept, kept.unique()) and bool((kept < 36).all())
    assert selection.scores is None or selection.scores.shape == (36,)
    assert (selection.merged is None) == (selection.sources is None)
    if selection.merged is not None and selection.sources is not None:
        assert selection.merged.shape == (len(kept), 8) and len(selection.sources) == len(kept)
        assert all(list(row) == sorted(set(row)) for row in selection.sources)
    for field in fields(Features):
        was, now = getattr(before, field.name), getattr(features, field.name)
        assert torch.equal(was, now) if isinstance(was, torch.Tensor) else was == now


@each_method
def test_half_precision_and_gradients_pass_through(method: Pruner) -> None:
    (stage,) = method.stages()
    features = everything(torch.bfloat16)
    for field in fields(Features):
        value = getattr(features, field.name)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.requires_grad_()
    features.visual = features.visual * 1
    selection = stage.choose(features)
    assert selection.scores is None or not selection.scores.requires_grad
    if selection.merged is not None:
        assert selection.merged.dtype == torch.bfloat16
        selection.merged.sum().backward()


@each_method
def test_a_batch_is_decided_sample_by_sample(method: Pruner) -> None:
    (stage,) = method.stages()
    features = everything()
    first, second = stage.choose_batch([features, features])
    assert torch.equal(first.kept, second.kept) and torch.equal(first.kept, stage.choose(features).kept)
    assert stage.choose_batch([]) == []


@each_method
def test_what_a_method_does_not_declare_it_does_not_read(method: Pruner) -> None:
    (stage,) = method.stages()
    assert stage.needs == method.needs
    declared = {need.name for need in method.needs}
    full, bare = everything(), Features(visual=everything().visual, text=everything().text, key="sample")
    for need, names in FIELDS.items():
        for name in names if need in declared else ():
            setattr(bare, name, getattr(full, name))
    assert torch.equal(stage.choose(bare).kept, stage.choose(full).kept)
    for name in [name for need in declared for name in FIELDS[need][:1]]:
        lacking = copy.copy(bare)
        setattr(lacking, name, None)
        with pytest.raises(UserError, match="(reads|needs).*Features"):
            stage.choose(lacking)


FIELDS: dict[str, list[str]] = {
    "TEXT": [],
    "LAYER_HIDDEN": [],
    "VISION_ATTENTION": ["vision_attention"],
    "VISION_KEYS": ["vision_keys"],
    "VISION_HIDDEN": ["vision_hidden", "vision_cls_hidden"],
    "VISION_LAST_QK": ["vision_last_keys", "vision_last_cls_key", "vision_last_cls_query"],
    "PROJECTOR": ["project"],
    "TEXT_TOWER": ["text_tower", "joint_visual"],
    "QUERY_ATTENTION": ["query_attention"],
    "OWN_ATTENTION": ["own_attention"],
    "TEXT_ATTENTION": ["text_attention"],
    "LAYER_KEYS": ["layer_keys", "text_keys"],
    "FINAL_NORM": ["normed_visual", "normed_text"],
    "INPUT_EMBEDDINGS": ["input_visual", "input_text"],
    "ROPE": ["visual_rope", "text_rope"],
}


@each_method
def test_the_source_is_cited(method: Pruner) -> None:
    assert "Reference:" in (type(method).__doc__ or "") and "arXiv:" in (type(method).__doc__ or "")


@pytest.mark.gpu
@each_method
def test_a_gpu_decides_as_the_cpu_does(method: Pruner) -> None:
    (stage,) = method.stages()
    here, there = stage.choose(everything()), stage.choose(everything(device="cuda"))
    assert there.kept.is_cuda and torch.equal(here.kept, there.kept.cpu()) and here.sources == there.sources
    if here.merged is not None:
        torch.testing.assert_close(there.merged, here.merged, check_device=False)


def test_one_number_where_a_list_is_meant_is_refused() -> None:
    with pytest.raises(UserError, match="PyramidDrop.num_keep takes a list"):
        PyramidDrop(num_keep=64)  # type: ignore[arg-type]


def test_an_unknown_text_scope_is_refused() -> None:
    for method in (DART, SparseVLM, SparseVLMPlus):
        with pytest.raises(UserError, match="text must be one of after_image, prompt, question, options"):
            method(**({"num_keep": 3} if method is DART else {}), text="answer")
