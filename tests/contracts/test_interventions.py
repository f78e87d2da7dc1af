"""What every intervention promises, checked on all that the scan finds. A new file is tested from its first run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from typing import Any

import pytest
import torch

from lit_simignore.config.sentences import sentences
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.interventions.base import (
    AttentionIntervention,
    Branch,
    Intervention,
    KernelInputs,
    LogitsIntervention,
    attend,
)
from lit_simignore.types import UserError
from tests.interventions.layer import Layer, Prompt, prompt

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "eah": [{}, {"rows": "image"}, {"rows": "after_image", "divisor": "released"}],
    "head_ablation": [{"heads": [1, 2], "mode": mode} for mode in ("zero", "uniform", "blind")],
    "visual_boost": [{"alpha": 0.5}],
}
"""Fields with which a method has something to do in these small layers; any other is built with its defaults."""

NAMES = sorted(INTERVENTIONS())
ATTENTION = [name for name in NAMES if issubclass(INTERVENTIONS()[name], AttentionIntervention)]
LOGITS = [name for name in NAMES if issubclass(INTERVENTIONS()[name], LogitsIntervention)]
VARIANTS = [(name, fields) for name in ATTENTION for fields in SETTINGS.get(name, [{}])]
on_every_layer_part = pytest.mark.parametrize(("name", "fields"), VARIANTS, ids=str)

BATCH = [
    prompt(19, [slice(3, 11)], seed=1),
    prompt(12, [slice(2, 5), slice(7, 9)], seed=2),
    prompt(7, [], seed=3),
]


def build(name: str, fields: dict[str, Any]) -> AttentionIntervention:
    part = INTERVENTIONS()[name](**fields)
    assert isinstance(part, AttentionIntervention)
    return part


def layer(part: AttentionIntervention, prompts: list[Prompt], **kwargs: Any) -> Layer:
    return Layer(prompts, layer_idx=part.layers(4)[0], **kwargs)


def shortened(sample: Prompt) -> Prompt:
    states = (part[:, :-1] for part in (sample.query, sample.key, sample.value))
    return Prompt(*states, sample.visual[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_of_one_of_the_two_kinds(name: str) -> None:
    assert issubclass(INTERVENTIONS()[name], AttentionIntervention | LogitsIntervention)


@on_every_layer_part
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask_kind", ["bool", "additive", "padding"])
def test_a_sample_does_not_depend_on_its_batch_or_padding(name: str, fields: dict, side: str, mask_kind: str) -> None:
    part = build(name, fields)
    together = layer(part, BATCH, side=side, mask_kind=mask_kind, length=23).run(part)
    for sample, output in zip(BATCH, together, strict=True):
        (alone,) = layer(part, [sample], mask_kind="none").run(part)
        assert torch.allclose(output, alone, atol=1e-5)


@on_every_layer_part
def test_it_has_something_to_do_here(name: str, fields: dict) -> None:
    part = build(name, fields)
    plain = [sample.outputs(sample.maps()) for sample in BATCH]
    changed = layer(part, BATCH).run(part)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, changed, strict=True)) > 1e-2


@on_every_layer_part
def test_a_batch_without_images_is_left_bit_identical(name: str, fields: dict) -> None:
    part = build(name, fields)
    if not part.image_only:
        pytest.skip("the rule does not depend on the image")
    without = [dataclasses.replace(sample, visual=torch.zeros_like(sample.visual)) for sample in BATCH]
    here = layer(part, without)
    inputs = here.inputs()
    assert part.edit(inputs, here.context()) is inputs
    assert here.context().prefill and part.edit(inputs, dataclasses.replace(here.context(), prefill=False)) is inputs


@on_every_layer_part
def test_grouped_keys_mean_the_same_as_repeated_ones(name: str, fields: dict) -> None:
    part = build(name, fields)
    repeated = [
        Prompt(each.query, each.key.repeat_interleave(2, 0), each.value.repeat_interleave(2, 0), each.visual)
        for each in BATCH
    ]
    for grouped, full in zip(layer(part, BATCH).run(part), layer(part, repeated).run(part), strict=True):
        assert torch.allclose(grouped, full, atol=1e-5)


@on_every_layer_part
def test_inputs_are_left_untouched(name: str, fields: dict) -> None:
    part, here = build(name, fields), layer(build(name, fields), BATCH)
    inputs, fresh = here.inputs(), here.inputs()
    attend(here.kernel, part.edit(inputs, here.context()), here.context())
    assert all(torch.equal(getattr(inputs, kind), getattr(fresh, kind)) for kind in ("query", "key", "value"))
    assert inputs.row_edits == () and inputs.gain is None


@on_every_layer_part
def test_shapes_and_dtype_are_kept(name: str, fields: dict) -> None:
    part, here = build(name, fields), layer(build(name, fields), BATCH)
    single = here.inputs()
    half = KernelInputs(*(states.bfloat16() for states in (single.query, single.key, single.value)))
    edited = part.edit(half, here.context())
    for kind in ("query", "key", "value"):
        assert getattr(edited, kind).shape == getattr(half, kind).shape
        assert getattr(edited, kind).dtype == torch.bfloat16
    output = attend(here.kernel, edited, here.context())
    assert output.dtype == torch.bfloat16 and bool(output.isfinite().all())


@on_every_layer_part
def test_gradients_flow_to_query_key_and_value(name: str, fields: dict) -> None:
    part, here = build(name, fields), layer(build(name, fields), BATCH)
    leaves = [getattr(here.inputs(), kind).requires_grad_() for kind in ("query", "key", "value")]
    attend(here.kernel, part.edit(KernelInputs(*leaves), here.context()), here.context()).sin().sum().backward()
    assert all(leaf.grad is not None and bool(leaf.grad.isfinite().all()) for leaf in leaves)


@on_every_layer_part
def test_a_layer_that_is_computed_again_gives_the_same(name: str, fields: dict) -> None:
    part, here = build(name, fields), layer(build(name, fields), BATCH)
    first = here.run(part)
    assert all(torch.equal(a, b) for a, b in zip(first, here.run(part), strict=True))


@on_every_layer_part
def test_a_later_step_does_not_depend_on_the_batch(name: str, fields: dict) -> None:
    part = build(name, fields)
    here = layer(part, [shortened(sample) for sample in BATCH])
    here.run(part)
    together = here.step(part, BATCH)
    for row, sample in enumerate(BATCH):
        alone = layer(part, [shortened(sample)])
        alone.run(part)
        assert torch.allclose(together[row], alone.step(part, [sample])[0], atol=1e-5)


@on_every_layer_part
def test_memory_can_be_chosen_from_by_beams(name: str, fields: dict) -> None:
    """Beams repeat, reorder and drop rows between steps; tensors have the batch first."""
    part, order = build(name, fields), [1, 0, 0]
    here = layer(part, [shortened(sample) for sample in BATCH])
    here.run(part)
    before = here.step(part, BATCH)
    chosen = layer(part, [shortened(BATCH[row]) for row in order], length=here.length)
    for key, value in here.memory.items():
        assert not isinstance(value, torch.Tensor) or value.shape[0] == len(BATCH)
        chosen.memory[key] = value[order] if isinstance(value, torch.Tensor) else value
    after = chosen.step(part, [BATCH[row] for row in order])
    assert torch.allclose(after, before[order], atol=1e-5)


@on_every_layer_part
def test_layers_ascend_and_must_exist(name: str, fields: dict) -> None:
    part = build(name, fields)
    chosen = part.layers(32)
    assert chosen == tuple(sorted(set(chosen))) and chosen and chosen[-1] < 32
    with pytest.raises(UserError) as caught:
        part.layers(chosen[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOGITS)
def test_predictions_are_combined_row_by_row(name: str) -> None:
    part = INTERVENTIONS()[name]()
    generator = torch.Generator().manual_seed(0)
    logits, second = (2 * torch.randn(4, 17, generator=generator) for _ in range(2))
    before = logits.clone(), second.clone()
    together = part.combine(logits, second)
    assert together.shape == logits.shape and together.dtype == torch.float32
    assert not bool(together.isnan().any()) and bool(together.isfinite().any(dim=1).all())
    for row in range(4):
        assert torch.equal(together[row : row + 1], part.combine(logits[row : row + 1], second[row : row + 1]))
    assert torch.equal(logits, before[0]) and torch.equal(second, before[1])
    half = part.combine(logits.bfloat16(), second.bfloat16())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("preset", [False, True])
def test_two_runs_that_agree_change_no_choice(name: str, preset: bool) -> None:
    cls = INTERVENTIONS()[name]
    part = cls.preset("released") if preset and "released" in cls.presets else cls()
    logits = torch.randn(5, 17, generator=torch.Generator().manual_seed(3))
    scores = part.combine(logits, logits)
    kept = scores.isfinite()
    assert torch.equal(scores.argmax(dim=1), logits.argmax(dim=1))
    assert torch.allclose(scores.softmax(-1)[kept], logits.masked_fill(~kept, -torch.inf).softmax(-1)[kept], atol=1e-5)


@pytest.mark.parametrize("name", LOGITS)
def test_the_second_run_is_declared(name: str) -> None:
    part = INTERVENTIONS()[name]()
    assert isinstance(part.branch, Branch) and isinstance(part.contrasts, bool)
    assert isinstance(part.contrasts_at(0), bool)
    pixels = torch.randn(3, 4, 4)
    if part.branch is Branch.NOISY_IMAGE:
        assert part.second_pixels(pixels, "a").shape == pixels.shape
    else:
        with pytest.raises(UserError):
            part.second_pixels(pixels, "a")


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_checked_when_the_rule_is_made(name: str) -> None:
    cls = INTERVENTIONS()[name]
    hints = typing.get_type_hints(cls)
    bad: dict[Any, object] = {str: "no such word", float: float("nan"), int: -1}
    for field in dataclasses.fields(cls):
        value = bad.get(hints[field.name])
        if value is None or field.name == "seed":
            continue
        with pytest.raises(UserError) as caught:
            cls(**{field.name: value})
        assert field.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_sentence_and_the_docstring_names_its_source(name: str) -> None:
    cls = INTERVENTIONS()[name]
    assert "__doc__" in vars(cls) and "Reference:" in cls.__doc__, "say paper, section and every deviation"
    assert {field.name for field in dataclasses.fields(cls)} <= set(sentences(cls))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_built(name: str) -> None:
    cls = INTERVENTIONS()[name]
    for preset in cls.presets:
        assert isinstance(cls.preset(preset), cls)
    with pytest.raises(UserError):
        cls.preset("no such preset")
    with pytest.raises(UserError):
        for preset in cls.presets or ["none"]:
            cls.preset(preset, no_such_field=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_is_named_after_its_file(name: str) -> None:
    cls = INTERVENTIONS()[name]
    assert cls.__name__.lower() == name.replace("_", "") and issubclass(cls, Intervention)


def test_interventions_import_neither_transformers_nor_lightning() -> None:
    code = (
        "import sys; from lit_simignore.interventions import INTERVENTIONS; INTERVENTIONS(); "
        "sys.exit(any(name in sys.modules for name in ('transformers', 'lightning', 'wandb', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
