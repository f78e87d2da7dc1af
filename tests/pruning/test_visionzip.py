from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.visionzip import VisionZip
from lit_simignore.types import UserError
from tests.pruning.released import Released, random_image, released, vision_features


def features_of(reference: Released) -> Features:
    return vision_features(
        reference["hidden_states"][0],
        vision_attention=reference["cls_attention"][0],
        vision_keys=reference["keys"][0][:, 1:],
    )


def released_rule(reference: Released, **fields: object) -> VisionZip:
    dominant, contextual = reference.count("dominant"), reference.count("contextual")
    total = dominant + contextual
    return VisionZip.preset("released", num_keep=total, contextual_share=contextual / total, **fields)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_preset_emits_the_released_rows_in_their_order(seed: int) -> None:
    reference = released("visionzip", seed)
    selection = released_rule(reference).choose(features_of(reference))
    assert selection.merged is not None
    torch.testing.assert_close(selection.merged, reference["output_tokens"][0], atol=1e-4, rtol=0)
    assert selection.kept.shape == (len(selection.merged),) and torch.equal(selection.kept, selection.kept.unique())


@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_names_the_patches_that_it_carries(seed: int) -> None:
    reference = released("visionzip", seed)
    sources = released_rule(reference).choose(features_of(reference)).sources
    assert sources is not None
    dominant = reference["dominant_sorted"].tolist()
    assert sources[0] == ()  # the class token is no patch
    assert [list(row) for row in sources[1 : len(dominant)]] == [[row - 1] for row in dominant[1:]]
    merged, target = reference["merged_tokens"], reference["assigned_target"]
    for row, own in zip(sources[len(dominant) :], reference["contextual_targets"].tolist(), strict=True):
        assert list(row) == sorted([own - 1, *(merged[target == own] - 1).tolist()])


@pytest.mark.parametrize("seed", [0, 1])
def test_in_place_the_same_rows_stand_where_their_tokens_stood(seed: int) -> None:
    reference = released("visionzip", seed)
    selection = released_rule(reference, placement="in_place", include_cls=True).choose(features_of(reference))
    assert selection.merged is not None and selection.sources is not None
    own = torch.cat([reference["dominant_sorted"][1:], reference["contextual_targets"]]) - 1
    rows = reference["output_tokens"][0][1:]
    for slot, row, carried in zip(selection.kept.tolist(), selection.merged, selection.sources, strict=True):
        if carried:
            assert slot in carried
            torch.testing.assert_close(row, rows[(own == slot).nonzero().item()], atol=1e-4, rtol=0)


def naive_contextual(features: Features, num_keep: int, contextual: int) -> dict[int, torch.Tensor]:
    """Patch index to row, without the class token, by plain loops."""
    assert features.vision_attention is not None
    assert features.vision_keys is not None
    attention, keys = features.vision_attention.sum(0).tolist(), features.vision_keys.mean(0)
    dominant = sorted(range(len(attention)), key=lambda i: -attention[i])[: num_keep - contextual]
    rest = [i for i in range(len(attention)) if i not in dominant]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    groups: dict[int, list[int]] = {target: [] for target in targets}
    for i in rest:
        if i not in groups:
            groups[max(targets, key=lambda t: float(torch.cosine_similarity(keys[i], keys[t], dim=0)))].append(i)
    rows = {i: features.visual[i] for i in dominant}
    for target, group in groups.items():
        rows[target] = features.visual[target] + (features.visual[group].mean(0) if group else 0)
    return rows


@pytest.mark.parametrize(("num_keep", "contextual"), [(1, 1), (5, 2), (8, 1), (14, 4), (20, 6), (29, 5)])
def test_without_the_class_token_the_default_agrees_with_plain_loops(num_keep: int, contextual: int) -> None:
    features = random_image(30, seed=num_keep)
    selection = VisionZip(num_keep=num_keep, contextual_share=contextual / num_keep).choose(features)
    expected = naive_contextual(features, num_keep, contextual)
    assert selection.kept.tolist() == sorted(expected) and selection.merged is not None
    torch.testing.assert_close(selection.merged, torch.stack([expected[i] for i in sorted(expected)]))


def test_only_the_contextual_rows_pass_the_projector_again() -> None:
    features = random_image(20)
    features.project = lambda rows: rows * 0
    selection = VisionZip(num_keep=8, contextual_share=0.25).choose(features)
    assert selection.merged is not None and selection.sources is not None
    for slot, row, carried in zip(selection.kept, selection.merged, selection.sources, strict=True):
        assert torch.equal(row, features.visual[slot]) if len(carried) == 1 else not row.any()


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (1, 1), (2, 2), (11, 11), (12, 12), (40, 12)])
@pytest.mark.parametrize("include_cls", [False, True])
def test_any_budget_is_met_or_capped(num_keep: int, expected: int, include_cls: bool) -> None:
    selection = VisionZip(num_keep=num_keep, include_cls=include_cls).choose(random_image(12))
    assert selection.kept.shape == (expected,) and torch.equal(selection.kept, selection.kept.unique())


def test_keeping_all_merges_nothing() -> None:
    assert VisionZip(keep_ratio=1.0).choose(random_image(12)).merged is None


def test_gradients_flow_through_merged_rows() -> None:
    features = random_image(20)
    assert features.vision_hidden is not None
    features.vision_hidden = features.vision_hidden.clone().requires_grad_()
    features.visual = features.vision_hidden * 1.0
    merged = VisionZip(num_keep=6, contextual_share=0.5).choose(features).merged
    assert merged is not None
    merged.sum().backward()
    assert features.vision_hidden.grad is not None
    assert features.vision_hidden.grad.abs().sum(1).count_nonzero() == 20  # every patch is in some row


def test_several_images_are_merged_each_by_itself() -> None:
    features = random_image(12 + 24, num_images=2)
    features.grids = ((3, 4), (4, 6))
    both = VisionZip(num_keep=12, contextual_share=0.5).choose(features)
    alone = []
    for number, (start, stop, budget) in enumerate([(0, 12, 4), (12, 36, 8)]):
        one = random_image(12 + 24, num_images=2)
        for name in ("visual", "vision_hidden"):
            setattr(one, name, getattr(one, name)[start:stop])
        for name in ("vision_attention", "vision_keys"):
            setattr(one, name, getattr(one, name)[:, start:stop])
        alone.append((number, VisionZip(num_keep=budget, contextual_share=0.5).choose(one)))
    assert both.kept.tolist() == [*alone[0][1].kept.tolist(), *(alone[1][1].kept + 12).tolist()]
    torch.testing.assert_close(both.merged, torch.cat([part.merged for _, part in alone]))  # type: ignore[misc]
    assert both.sources is not None and alone[1][1].sources is not None
    assert both.sources[4:] == tuple(tuple(i + 12 for i in row) for row in alone[1][1].sources)


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(UserError, match="VisionZip.placement must be one of in_place, appended"):
        VisionZip(num_keep=3, placement="behind")
