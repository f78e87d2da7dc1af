"""Every method on every family: what ``needs`` rules out is refused, everything else equals the untouched model.

Families and methods are those that the scans find, so a new file of either kind is tested from its first run. Where a
method's published constants do not fit models of four layers, :data:`FIELDS` says what is built instead.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_simignore.pruning import PRUNERS
from lit_simignore.pruning.base import Pruner
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.families import FAMILIES
from lit_simignore.surgery.stages import DECODER_OFFERS
from lit_simignore.types import UserError
from tests.masked_reference import distance, generate, num_hooks
from tests.method_reference import Oracle, Recorded
from tests.tiny_families import BUILDERS, FamilyBatch, tiny_family, tiny_family_batch

TOLERANCE = 1e-4
STEPS = 8
LAYER, LAYERS, RATIO, RATIOS = 2, (2, 3), 0.5, (0.75, 0.4)

FIELDS: dict[str, dict[str, Any]] = {
    "sparsevlm": {"layers": LAYERS, "keep_ratio": (0.5, 0.25), "recycle_ratio": 0.7, "tokens_per_cluster": 3},
    "dart": {"layer_idx": LAYER, "keep_ratio": RATIO, "pivot_visual": 1, "pivot_text": 2},
}
"""Constructor fields of methods that the general ones (:func:`fields_of`) would leave half untested."""

OWN_ORACLE = {"downsampled_image"}
"""Methods under which the tower sees something else: the untouched model knows nothing of their values, and they have
an oracle of their own (tests/surgery/test_smaller_images.py)."""

CASE = tuple[str, str, str, str]
NAMES, METHODS, ATTENTION = sorted(BUILDERS), sorted(PRUNERS()), ("sdpa", "eager")
COUNTS = {"one": (1,), "ragged": (2, 1, 0)}


def fields_of(name: str, keep_all: bool = False) -> dict[str, Any]:
    """What to build the method with: half of the tokens, before the third layer or the two last ones."""
    known = {field.name for field in dataclasses.fields(PRUNERS()[name])}
    fields: dict[str, Any] = dict(FIELDS.get(name, {}))
    if name not in FIELDS:
        fields |= {"layer_idx": LAYER} if "layer_idx" in known else {}
        fields |= {"layers": LAYERS} if "layers" in known else {}
        if "keep_ratio" in known:
            fields["keep_ratio"] = RATIOS if "layers" in known else RATIO
    if keep_all:
        fields["keep_ratio"] = (1.0,) * len(fields["layers"]) if "layers" in known else 1.0
    return fields


def build(name: str, keep_all: bool = False) -> Pruner:
    return PRUNERS()[name](**fields_of(name, keep_all))


def missing(family: str, method: str) -> list[str]:
    """What the method reads and the family does not have, by the declarations of both."""
    cls = FAMILIES()[family]
    lacking = set()
    for stage in build(method).stages():
        lacking |= stage.needs - cls.offers - (cls.tower_offers if stage.stage is None else DECODER_OFFERS)
    return sorted(need.value for need in lacking)


REFUSED = [pair for pair in itertools.product(NAMES, METHODS) if missing(*pair)]
FACTORS = (NAMES, METHODS, ATTENTION, tuple(COUNTS))
OFFERED: list[CASE] = [case for case in itertools.product(*FACTORS) if case[:2] not in set(REFUSED)]
PRODUCT = [case for case in OFFERED if case[1] not in OWN_ORACLE]


def covering(cases: Iterable[CASE], strength: int) -> set[CASE]:
    """A small part of ``cases`` in which every ``strength`` levels of different factors meet, if they do anywhere."""
    chosen, met = set(), set()
    for case in cases:
        groups = set(itertools.combinations(enumerate(case), strength))
        if not groups <= met:
            chosen.add(case)
            met |= groups
    return chosen


def _by_turns(case: CASE) -> bool:
    """Whether attention and batch size are those whose turn it is, counting families and methods; False goes first."""
    turn = NAMES.index(case[0]) + METHODS.index(case[1])
    return case[2:] != (ATTENTION[turn % 2], tuple(COUNTS)[turn // 2 % 2])


def _by_diagonal(case: CASE) -> tuple[bool, bool]:
    """One method per family first, each with another one."""
    return (METHODS.index(case[1]) - NAMES.index(case[0])) % len(NAMES) != 0, _by_turns(case)


PAIRWISE = covering(sorted(PRODUCT, key=_by_turns), strength=2)
ONCE = covering(sorted(PRODUCT, key=_by_diagonal), strength=1)
KEEPS_ALL = [case for case in OFFERED if "keep_ratio" in {f.name for f in dataclasses.fields(PRUNERS()[case[1]])}]


def marked(cases: Iterable[CASE], default: set[CASE]) -> list[Any]:
    """Parameters of a test: all of ``cases``, those outside ``default`` only where slow ones are asked for."""
    return [pytest.param(*case, marks=[] if case in default else [pytest.mark.slow]) for case in cases]


@cache
def model_of(name: str, attention: str) -> Any:
    return tiny_family(name, attention)


@cache
def batch_of(name: str, size: str) -> FamilyBatch:
    return tiny_family_batch(name, model_of(name, "sdpa"), COUNTS[size])


@cache
def plain_of(name: str, attention: str, size: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the prompt, sequences and logits of every step, of the untouched model."""
    model, batch = model_of(name, attention), batch_of(name, size)
    with torch.no_grad():
        return model(**batch.inputs).logits, *generate(model, batch.inputs, STEPS)[:2]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attach.. got no spans")
        yield


# -- the cases


def test_every_family_and_every_method_is_covered():
    assert set(NAMES) == set(FAMILIES()) - {"causal_lm"}
    assert {case[:2] for case in OFFERED} | set(REFUSED) == set(itertools.product(NAMES, METHODS))
    assert set(FIELDS) <= set(METHODS)


def test_default_cases_cover_every_pair_of_levels():
    for first, second in itertools.combinations(range(len(FACTORS)), 2):
        met = {(case[first], case[second]) for case in PAIRWISE}
        assert met == {(case[first], case[second]) for case in PRODUCT}


@pytest.mark.parametrize("name", NAMES)
def test_a_family_offers_what_its_tower_has(name):
    family = FAMILIES()[name]()
    tower = family.vision(model_of(name, "sdpa"))
    assert family.tower_offers == (frozenset() if tower is None else tower.offers)


# -- what a family does not offer


@pytest.mark.parametrize(("family", "method"), REFUSED)
def test_what_a_family_does_not_offer_is_named_in_one_line(family, method):
    model = model_of(family, "sdpa")
    hooks = num_hooks(model)
    with pytest.raises(UserError) as caught, attach(model, build(method)):
        pass
    message = str(caught.value)
    assert "\n" not in message and PRUNERS()[method].__name__ in message
    assert all(need in message for need in missing(family, method))
    assert num_hooks(model) == hooks


# -- what it offers


@pytest.mark.parametrize(("family", "method", "attention", "size"), marked(PRODUCT, PAIRWISE))
def test_logits_of_the_prompt_equal_those_of_the_untouched_model(family, method, attention, size):
    model, batch, recorded = model_of(family, attention), batch_of(family, size), Recorded(build(method))
    plain = plain_of(family, attention, size)[0]
    with torch.no_grad():
        with attach(model, recorded.pruner) as trace:
            logits = model(**batch.inputs).logits
        oracle = Oracle(model, batch, trace, recorded)
        expected = oracle.forward().logits
    seen = ~oracle.gone
    assert logits.shape == expected.shape and bool((logits[~seen & batch.inputs["attention_mask"].bool()] == 0).all())
    assert distance(logits[seen], expected[seen]) < TOLERANCE
    assert distance(logits[:, -1], plain[:, -1]) > 100 * TOLERANCE, "nothing was pruned, so nothing was tested"


@pytest.mark.parametrize(("family", "method", "attention", "size"), marked(PRODUCT, PAIRWISE))
def test_eight_greedy_steps_equal_those_of_the_untouched_model_which_is_left_as_it_was(family, method, attention, size):
    model, batch, recorded = model_of(family, attention), batch_of(family, size), Recorded(build(method))
    plain_logits, plain_sequences, plain_steps = plain_of(family, attention, size)
    hooks, configs = num_hooks(model), [getattr(module, "config", None) for module in model.modules()]
    with torch.no_grad():
        with attach(model, recorded.pruner) as trace:
            sequences, steps, _ = generate(model, batch.inputs, STEPS)
        expected_sequences, expected = Oracle(model, batch, trace, recorded).generate(STEPS)
        assert torch.equal(model(**batch.inputs).logits, plain_logits)
    assert torch.equal(sequences, expected_sequences) and distance(steps, expected) < TOLERANCE
    assert torch.equal(sequences[:, : batch.length], plain_sequences[:, : batch.length])
    assert distance(steps, plain_steps) > 100 * TOLERANCE, "nothing was pruned, so nothing was tested"
    assert num_hooks(model) == hooks
    assert all(getattr(a, "config", None) is b for a, b in zip(model.modules(), configs, strict=True))


@pytest.mark.parametrize(
    ("family", "method", "attention", "size"), marked(KEEPS_ALL, covering(sorted(KEEPS_ALL, key=_by_turns), 2))
)
def test_keeping_everything_is_bit_identical(family, method, attention, size):
    model, batch = model_of(family, attention), batch_of(family, size)
    plain_logits, plain_sequences, plain_steps = plain_of(family, attention, size)
    with torch.no_grad(), attach(model, build(method, keep_all=True)) as trace:
        assert torch.equal(model(**batch.inputs).logits, plain_logits)
        sequences, steps, _ = generate(model, batch.inputs, STEPS)
    assert torch.equal(sequences, plain_sequences) and torch.equal(steps, plain_steps)
    assert [len(kept) for kept in trace.kept] == batch.num_visual


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(("family", "method", "attention", "size"), marked(PRODUCT, ONCE))
def test_loss_and_every_gradient_equal_those_of_the_untouched_model(family, method, attention, size):
    model, batch, recorded = model_of(family, attention), batch_of(family, size), Recorded(build(method))
    labels = torch.full_like(batch.inputs["input_ids"], -100)
    labels[:, -4:] = batch.inputs["input_ids"][:, -4:]
    with attach(model, recorded.pruner) as trace:
        output = model(**batch.inputs, labels=labels)
    got = gradients(model, output.loss)
    reference = Oracle(model, batch, trace, recorded).forward(labels=labels)
    expected = gradients(model, reference.loss)
    assert abs(float((output.loss - reference.loss).detach())) < TOLERANCE
    assert set(got) == set(expected)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert max(distance(got[name], expected[name]) for name in expected) < TOLERANCE * largest
