"""What every pruner promises, checked on every one that the scan finds. A new file is tested from its first run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
import torch

from lit_simignore.pruning import PRUNERS
from lit_simignore.pruning.base import CountPruner, Features, Pruner, ScorePruner
from lit_simignore.types import Selection, UserError

ROWS, COLS = 4, 6
NUM_VISUAL, NUM_TEXT, HEADS, KV_HEADS, WIDTH, HEAD_DIM, VISION = ROWS * COLS, 5, 4, 2, 16, 8, 12


def full_features(seed: int = 0, num_text: int = NUM_TEXT, key: str = "sample") -> Features:
    """One image with every optional field filled in, so that every rule finds what it needs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def probabilities(*shape: int) -> torch.Tensor:
        return normal(*shape).softmax(-1)

    projector = normal(VISION, WIDTH)
    vision_hidden = normal(NUM_VISUAL, VISION)
    angles = normal(1, NUM_VISUAL + num_text, HEAD_DIM)
    rope = torch.cat([angles.cos(), angles.sin()])
    values = {
        "visual": vision_hidden @ projector,
        "text": normal(num_text, WIDTH),
        "key": key,
        "grids": ((ROWS, COLS),),
        "query_attention": probabilities(HEADS, NUM_VISUAL),
        "vision_attention": probabilities(HEADS, NUM_VISUAL),
        "vision_keys": normal(HEADS, NUM_VISUAL, HEAD_DIM),
        "vision_hidden": vision_hidden,
        "vision_cls_hidden": normal(1, VISION),
        "vision_last_keys": normal(NUM_VISUAL, VISION),
        "vision_last_cls_key": normal(1, VISION),
        "vision_last_cls_query": normal(1, VISION),
        "project": lambda rows: rows @ projector.to(rows.dtype),
        "text_tower": normal(2, WIDTH),
        "joint_visual": normal(NUM_VISUAL, WIDTH),
        "own_attention": probabilities(HEADS, NUM_VISUAL),
        "text_attention": probabilities(HEADS, num_text, NUM_VISUAL),
        "layer_keys": normal(KV_HEADS, NUM_VISUAL, HEAD_DIM),
        "text_keys": normal(KV_HEADS, num_text, HEAD_DIM),
        "normed_visual": normal(NUM_VISUAL, WIDTH),
        "normed_text": normal(num_text, WIDTH),
        "input_visual": normal(NUM_VISUAL, WIDTH),
        "input_text": normal(num_text, WIDTH),
        "visual_rope": rope[:, :NUM_VISUAL],
        "text_rope": rope[:, NUM_VISUAL:],
        "visual_columns": torch.arange(2, 2 + NUM_VISUAL),
        "text_columns": torch.arange(2 + NUM_VISUAL, 2 + NUM_VISUAL + num_text),
    }
    known = {item.name for item in dataclasses.fields(Features)}
    return Features(**{name: value for name, value in values.items() if name in known})


def build(name: str, num_keep: int = 7) -> Pruner:
    """An instance that keeps ``num_keep`` tokens, or with the rule's own defaults where it takes no count."""
    cls = PRUNERS()[name]
    return cls(num_keep=num_keep) if issubclass(cls, CountPruner) else cls()


def single_stages(name: str, num_keep: int = 7) -> tuple[Pruner, ...]:
    """The drops that make up the method; most are one."""
    return build(name, num_keep).stages()


NAMES = sorted(PRUNERS())
COUNTED = [name for name in NAMES if issubclass(PRUNERS()[name], CountPruner)]
SCORED = [name for name in NAMES if issubclass(PRUNERS()[name], ScorePruner)]


def check_selection(selection: Selection, total: int) -> None:
    kept = selection.kept
    assert kept.dtype == torch.int64 and kept.ndim == 1
    assert bool((kept[1:] > kept[:-1]).all()), "indices must ascend without repeats"
    assert not len(kept) or (int(kept[0]) >= 0 and int(kept[-1]) < total)
    if selection.scores is not None:
        assert selection.scores.shape == (total,) and selection.scores.is_floating_point()
        assert not bool(selection.scores.isnan().any())
    if selection.merged is not None:
        assert selection.merged.shape[0] == len(kept) and bool(selection.merged.isfinite().all())
    if selection.sources is not None:
        assert len(selection.sources) == len(kept)
        for index, group in zip(kept.tolist(), selection.sources, strict=True):
            assert list(group) == sorted(set(group)) and all(0 <= source < total for source in group)
            assert group, f"kept token {index} carries no source"


@pytest.mark.parametrize("name", NAMES)
def test_kept_indices_are_ascending_unique_int64_and_in_range(name):
    for stage in single_stages(name):
        for seed in range(3):
            check_selection(stage.choose(full_features(seed)), NUM_VISUAL)


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("num_keep", [1, 7, NUM_VISUAL - 1, NUM_VISUAL, NUM_VISUAL + 10])
def test_the_count_is_respected_and_more_than_there_are_keeps_all(name, num_keep):
    stages = single_stages(name, num_keep)
    if len(stages) > 1:
        pytest.skip("a staged method spends its count over several drops")
    try:
        selection = stages[0].choose(full_features())
    except UserError as error:
        assert "\n" not in str(error), "a count that a rule cannot meet is refused in one line"
        assert num_keep < 7
        return
    assert len(selection.kept) == min(num_keep, NUM_VISUAL)


@pytest.mark.parametrize("name", SCORED)
def test_zero_keeps_none(name):
    assert len(build(name, 0).choose(full_features()).kept) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_features_give_the_same_choice(name):
    for first, second in zip(single_stages(name), single_stages(name), strict=True):
        before = first.choose(full_features())
        torch.manual_seed(123)  # global random state must not matter
        after = second.choose(full_features())
        assert torch.equal(before.kept, after.kept)
        if before.merged is not None:
            assert torch.equal(before.merged, after.merged)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_left_untouched(name):
    for stage in single_stages(name):
        features, snapshot = full_features(), full_features()
        stage.choose(features)
        for item in dataclasses.fields(Features):
            value, before = getattr(features, item.name), getattr(snapshot, item.name)
            if isinstance(before, torch.Tensor):
                assert torch.equal(value, before), f"{name} changed Features.{item.name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_chosen_sample_by_sample(name):
    features = [full_features(seed, key=f"s{seed}") for seed in range(3)]
    for stage in single_stages(name):
        together = stage.choose_batch(features)
        alone = [stage.choose(sample) for sample in features]
        assert all(torch.equal(a.kept, b.kept) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if PRUNERS()[name].order_free])
def test_the_choice_moves_with_its_tokens(name):
    features = full_features()
    order = torch.randperm(NUM_VISUAL, generator=torch.Generator().manual_seed(4))
    moved = dataclasses.replace(full_features(), visual=features.visual[order])
    for stage in single_stages(name):
        before, after = stage.choose(features), stage.choose(moved)
        assert torch.equal(order[after.kept].sort().values, before.kept)
        if before.scores is not None and after.scores is not None:
            assert torch.allclose(before.scores[order], after.scores, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_accepted(name, dtype):
    def cast(value: object) -> object:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    base = full_features()
    features = Features(**{item.name: cast(getattr(base, item.name)) for item in dataclasses.fields(Features)})
    for stage in single_stages(name):
        check_selection(stage.choose(features), NUM_VISUAL)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_without_text_rows_is_defined(name):
    for stage in single_stages(name):
        try:
            check_selection(stage.choose(full_features(num_text=0)), NUM_VISUAL)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("bad", [{"num_keep": -1}, {"num_keep": 2.5}, {"num_keep": True}, {"keep_ratio": 1.5}, {}])
def test_a_bad_budget_is_refused_in_one_line(name, bad):
    cls = PRUNERS()[name]
    if not bad and cls.adaptive:
        pytest.skip("an adaptive rule finds its own count")
    with pytest.raises(UserError) as caught:
        cls(**bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", COUNTED)
def test_two_budgets_at_once_are_refused(name):
    with pytest.raises(UserError, match="exactly one of"):
        PRUNERS()[name](num_keep=3, keep_ratio=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_budget_definition_is_refused_in_one_line(name):
    with pytest.raises(UserError) as caught:
        build(name).with_budget("final tokens", 7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SCORED)
def test_a_final_budget_is_spent_exactly(name):
    spent = build(name).with_budget("final", 5)
    assert type(spent) is PRUNERS()[name]
    assert len(spent.choose(full_features()).kept) == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_its_source(name):
    cls = PRUNERS()[name]
    assert "__doc__" in vars(cls) and "Reference:" in cls.__doc__, "say paper, section and every deviation"


RIVALS = [name for name in NAMES if "Release:" in PRUNERS()[name].__doc__ or PRUNERS()[name].presets]


@pytest.mark.parametrize("name", RIVALS)
def test_a_published_method_names_its_section_or_says_that_none_was_verified_and_every_deviation(name):
    reference = " ".join(PRUNERS()[name].__doc__.split("Reference:")[1].split())
    assert re.search(r"Eq\. \d|Table \d|not verified|there is no section", reference)
    assert re.search(r"[Dd]eviations|released code, and this class", reference)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_built(name):
    cls = PRUNERS()[name]
    for preset in cls.presets:
        assert isinstance(cls.preset(preset), cls)
    with pytest.raises(UserError):
        cls.preset("no such preset")


@pytest.mark.parametrize("name", NAMES)
def test_the_class_is_named_after_its_file(name):
    assert PRUNERS()[name].__name__.lower() == name.replace("_", "")


def test_pruning_imports_neither_transformers_nor_lightning():
    code = (
        "import sys; from lit_simignore.pruning import PRUNERS; PRUNERS(); "
        "sys.exit(any(name in sys.modules for name in ('transformers', 'lightning', 'wandb', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
