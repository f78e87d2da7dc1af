"""EAH against loops over whole attention maps, one sample, one head and one column at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_simignore.interventions._sinks import column_means
from lit_simignore.interventions.base import KernelInputs, LayerContext
from lit_simignore.interventions.eah import EAH, NO_HEAD, broadcast_head, choose_head
from lit_simignore.types import UserError
from tests.interventions.layer import SCALING, Layer, Prompt, prompt

RULES = {
    "default": EAH(),
    "image rows": EAH(rows="image", threshold=0.9, chunk=3),
    "text behind the image": EAH(rows="after_image", chunk=5),
    "paper": EAH.preset("paper", threshold=0.05),
    "released": EAH.preset("released", threshold=0.04, layer_idx=2),
    "first of equals": EAH(ties="first", threshold=0.2),
}


def naive_means(sample: Prompt, rule: EAH) -> list[dict[int, float]]:
    """Mean attention of every visual column, per head."""
    columns = sample.visual.nonzero().flatten().tolist()
    means = []
    for attention in sample.maps().double():
        found = {}
        for j in columns:
            rows = [i for i in range(sample.length) if i != j and counts(sample, i, rule.rows)]
            total = sum(float(attention[i, j]) for i in rows)
            below = sum(i > j for i in rows)
            first, last = columns[0], columns[-1]
            divisor = {"rows": below, "constant": last - first, "released": first + last + 1 - j}[rule.divisor]
            found[j] = total / max(divisor, 1)
        means.append(found)
    return means


def counts(sample: Prompt, row: int, rows: str) -> bool:
    if rows == "image":
        return bool(sample.visual[row])
    behind = bool(sample.visual[:row].any()) and not bool(sample.visual[row])
    return behind if rows == "after_image" else True


def naive_winner(sample: Prompt, rule: EAH) -> tuple[int, list[int]]:
    if not bool(sample.visual.any()):
        return NO_HEAD, [0] * len(sample.query)
    means = naive_means(sample, rule)
    limit = rule.threshold / sample.length if rule.relative else rule.threshold
    sinks = [sum(value > limit for value in head.values()) for head in means]
    mass = [sum(head.values()) if rule.ties == "mass" else 0.0 for head in means]
    best = max(range(len(means)), key=lambda head: (sinks[head], mass[head], -head))
    if sinks[best] == 0 or (best == 0 and not rule.head_zero):
        return NO_HEAD, sinks
    return best, sinks


def naive_outputs(sample: Prompt, winner: int) -> Tensor:
    maps = sample.maps()
    return sample.outputs(maps if winner == NO_HEAD else maps[winner].expand_as(maps))


BATCH = [
    prompt(19, [slice(3, 11)], seed=1),
    prompt(12, [slice(2, 5), slice(7, 9)], seed=2),
    prompt(7, [], seed=3),
    prompt(16, [slice(0, 9)], seed=4),
]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask_kind", ["bool", "additive", "padding"])
def test_a_padded_batch_agrees_with_the_naive_maps(rule: EAH, side: str, mask_kind: str) -> None:
    layer = Layer(BATCH, side=side, mask_kind=mask_kind)
    outputs = layer.run(rule)
    expected = [naive_winner(sample, rule) for sample in BATCH]
    assert layer.memory["winning_head"].tolist() == [winner for winner, _ in expected]
    assert layer.memory["sink_counts"].tolist() == [sinks for _, sinks in expected]
    for sample, output, (winner, _) in zip(BATCH, outputs, expected, strict=True):
        assert torch.allclose(output, naive_outputs(sample, winner), atol=1e-4)
    assert max(winner for winner, _ in expected) > 0, "the samples must not all be trivial"


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_every_grouping_of_heads_agrees_with_the_naive_maps(groups: int, seed: int) -> None:
    sample, rule = prompt(heads=8, groups=groups, seed=seed), EAH(threshold=0.8)
    layer = Layer([sample], mask_kind="none")
    (output,) = layer.run(rule)
    winner, sinks = naive_winner(sample, rule)
    assert layer.memory["sink_counts"].tolist() == [sinks]
    assert torch.allclose(output, naive_outputs(sample, winner), atol=1e-4)


@pytest.mark.parametrize(("groups", "num_heads"), [(8, 1), (8, 3), (8, 8), (4, 2), (4, 6), (2, 4), (1, 8)])
@pytest.mark.parametrize("decode", [False, True])
def test_only_the_heads_with_the_fewest_sinks_get_the_map(groups: int, num_heads: int, decode: bool) -> None:
    sample = prompt(heads=8, groups=groups, seed=2)
    rule = EAH(threshold=0.8, num_heads=num_heads)
    layer = Layer([sample], mask_kind="none")
    (output,) = layer.run(rule)
    winner, sinks = naive_winner(sample, rule)
    shared = 8 // groups
    summed = [sum(sinks[group * shared : (group + 1) * shared]) for group in range(groups)]
    poorest = sorted(range(groups), key=lambda group: (summed[group], group))[: num_heads // shared]
    if decode:  # the prompt's counts go on deciding
        longer = prompt(sample.length + 1, [], heads=8, groups=groups, seed=7)
        longer.query[:, :-1], longer.key[:, :-1], longer.value[:, :-1] = sample.query, sample.key, sample.value
        longer.visual[: sample.length] = sample.visual
        output, sample = layer.step(rule, [longer])[0], longer
    maps = sample.maps()
    mixed = torch.stack([maps[winner if head // shared in poorest else head] for head in range(8)])
    expected = sample.outputs(mixed)
    assert torch.allclose(output, expected[-1:] if decode else expected, atol=1e-4)
    assert num_heads == 8 or not torch.allclose(expected, naive_outputs(sample, winner), atol=1e-3)


def test_heads_that_share_a_key_are_not_parted() -> None:
    for groups, num_heads in ((4, 3), (8, 9)):
        with pytest.raises(UserError, match="EAH.num_heads must be a multiple of"):
            Layer([prompt(heads=8, groups=groups, seed=2)]).run(EAH(threshold=0.8, num_heads=num_heads))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_size_of_a_chunk_changes_nothing(rule: EAH) -> None:
    layer = Layer(BATCH)
    inputs, context = layer.inputs(), layer.context()

    def means(chunk: int) -> Tensor:
        return column_means(inputs.query, inputs.key, context, rows=rule.rows, divisor=rule.divisor, chunk=chunk)

    for chunk in (1, 4, 7, 19):
        assert torch.allclose(means(chunk), means(1000), atol=1e-6)


def test_a_later_step_goes_on_with_the_head_of_the_prefill() -> None:
    longer = [prompt(each.length + 1, [], seed=seed) for seed, each in enumerate(BATCH)]
    for old, new in zip(BATCH, longer, strict=True):
        new.query[:, :-1], new.key[:, :-1], new.value[:, :-1] = old.query, old.key, old.value
        new.visual[: old.length] = old.visual
    for decode in ("reuse", "off"):
        rule = EAH(decode=decode)
        layer = Layer(BATCH)
        layer.run(rule)
        step = layer.step(rule, longer)
        for row, (old, new) in enumerate(zip(BATCH, longer, strict=True)):
            winner = naive_winner(old, rule)[0] if decode == "reuse" else NO_HEAD
            assert torch.allclose(step[row, 0], naive_outputs(new, winner)[-1], atol=1e-4)


def test_a_step_of_an_unknown_cache_is_left_alone() -> None:
    inputs = Layer(BATCH).inputs()
    context = LayerContext(1, 4, Layer(BATCH).context().visual, Layer(BATCH).alive, SCALING, prefill=False)
    assert EAH().edit(inputs, context) is inputs


def test_a_recomputed_layer_uses_the_first_choice() -> None:
    layer, rule = Layer(BATCH), EAH()
    layer.run(rule)
    noted = layer.memory["winning_head"].clone()
    layer.memory["winning_head"] = (noted + 1).clamp(max=3)
    first = layer.run(rule)
    assert torch.equal(layer.memory["winning_head"], (noted + 1).clamp(max=3))
    assert not torch.allclose(first[0], naive_outputs(BATCH[0], int(noted[0])), atol=1e-2)


def test_spare_slots_of_a_static_cache_are_not_looked_at() -> None:
    layer, rule = Layer(BATCH), EAH()
    inputs, context = layer.inputs(), layer.context()
    spare = [torch.nn.functional.pad(states, (0, 0, 0, 5), value=9.0) for states in (inputs.key, inputs.value)]
    attended = torch.nn.functional.pad(layer.attended(), (0, 5))
    wider = LayerContext(2, 4, context.visual, context.alive, SCALING, mask=attended)
    edited = rule.edit(KernelInputs(inputs.query, *spare), wider)
    assert edited.key.shape[2] == layer.length + 5
    layer.run(rule)
    assert torch.equal(wider.memory["winning_head"], layer.memory["winning_head"])
    assert torch.equal(wider.memory["sink_counts"], layer.memory["sink_counts"])


def test_queries_of_an_image_block_that_see_each_other_count_as_rows() -> None:
    """Gemma 3 and PaliGemma: visual tokens attend in both directions, so more rows see a column than lie below it."""
    sample = prompt(12, [slice(2, 8)], heads=2, groups=1, seed=5)
    attended = torch.ones(12, 12, dtype=torch.bool).tril()
    attended[2:8, 2:8] = True
    context = LayerContext(
        1, 4, sample.visual[None], torch.ones(1, 12, dtype=torch.bool), SCALING, mask=attended[None, None]
    )
    means = column_means(sample.query[None], sample.key[None], context)
    logits = sample.query @ sample.key.expand(2, -1, -1).transpose(-1, -2) * SCALING
    maps = logits.masked_fill(~attended, -torch.inf).softmax(-1)
    for column in range(2, 8):
        rows = [row for row in range(12) if row != column and attended[row, column]]
        assert len(rows) == 9
        assert torch.allclose(means[0, :, column], maps[:, rows, column].mean(dim=1), atol=1e-6)


def test_equal_counts_go_to_the_larger_mass_and_then_to_the_lowest_head() -> None:
    sinks = torch.tensor([[3, 5, 5, 5], [2, 2, 2, 2], [0, 0, 0, 0]])
    mass = torch.tensor([[9.0, 1.0, 4.0, 4.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    assert choose_head(sinks, mass).tolist() == [2, 0, NO_HEAD]
    assert choose_head(sinks).tolist() == [1, 0, NO_HEAD]
    assert choose_head(sinks, head_zero=False).tolist() == [1, NO_HEAD, NO_HEAD]


def test_a_relative_threshold_counts_the_real_tokens_of_the_sample() -> None:
    short, long = prompt(12, [slice(2, 8)], seed=2), prompt(40, [slice(2, 8)], seed=6)
    layer = Layer([short, long])
    layer.run(EAH(threshold=1.0))
    absolute = Layer([short])
    absolute.run(EAH(threshold=1 / 12, relative=False))
    assert torch.equal(layer.memory["sink_counts"][:1], absolute.memory["sink_counts"])


def test_broadcast_leaves_samples_without_a_winner_bit_identical() -> None:
    inputs = Layer(BATCH).inputs()
    edited = broadcast_head(inputs, torch.tensor([3, NO_HEAD, 0, 1]))
    assert torch.equal(edited.query[1], inputs.query[1]) and torch.equal(edited.key[1], inputs.key[1])
    assert torch.equal(edited.query[0, 0], inputs.query[0, 3]) and torch.equal(edited.key[0, 0], inputs.key[0, 1])
    assert edited.value is inputs.value


def test_gradients_are_those_of_the_naive_map() -> None:
    sample, rule = prompt(seed=1), EAH()
    winner, _ = naive_winner(sample, rule)
    leaves = [part.clone().requires_grad_() for part in (sample.query, sample.key, sample.value)]
    copies = [part.detach().clone().requires_grad_() for part in leaves]
    layer = Layer([Prompt(*leaves, sample.visual)])
    layer.run(rule)[0].sin().sum().backward()
    naive_outputs(Prompt(*copies, sample.visual), winner).sin().sum().backward()
    for mine, theirs in zip(leaves, copies, strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)


def test_layers_are_one_or_several_and_must_exist() -> None:
    assert EAH().layers(32) == (1,)
    assert EAH(layer_idx=[3, 0, 3]).layers(4) == (0, 3)
    assert EAH.preset("released").layers(32) == (15,)
    with pytest.raises(UserError, match="EAH edits decoder layer 15; this decoder has layers 0 to 5"):
        EAH.preset("released").layers(6)


@pytest.mark.parametrize(
    "bad", [{"layer_idx": -1}, {"layer_idx": []}, {"threshold": -0.1}, {"rows": "visual"}, {"chunk": 0},
            {"divisor": "length"}, {"ties": "last"}, {"decode": "always"}, {"layer_idx": [1.5]}],
)  # fmt: skip
def test_a_bad_field_is_refused_in_one_line(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"EAH.{next(iter(bad))}") as caught:
        EAH(**bad)
    assert "\n" not in str(caught.value)
