"""Asking the model: the baseline once, every family, and giving up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_simignore.engine.generation import answer
from lit_simignore.explore import desk as module
from lit_simignore.explore.answers import result
from lit_simignore.explore.app import open_counter
from lit_simignore.explore.desk import Desk, Stopped, place
from lit_simignore.explore.examples import draw_examples
from lit_simignore.explore.shelf import Held, Shelf
from lit_simignore.explore.wish import Wish
from lit_simignore.pruning.stride import Stride
from lit_simignore.surgery.load import load
from lit_simignore.types import UserError
from tests.tiny_checkpoints import PROCESSORS, save_tiny_checkpoint

QUESTION = "Describe the image."
ONES_OF_EACH_KIND = ("llava_next", "qwen2_5_vl")


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(*load("pico"), max_new_tokens=24)


@pytest.fixture()
def held(desk: Desk) -> Held:
    desk._asked.clear()
    return Shelf(desk.processor).keep("scene-1", draw_examples()[0].image)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The parts of every call of the model from now on."""
    calls: list[tuple[object, ...]] = []

    def note(model: Any, processor: Any, prompts: Any, parts: Any, *rest: Any, **settings: Any) -> Any:
        calls.append(tuple(type(part).__name__ for part in parts))
        return answer(model, processor, prompts, parts, *rest, **settings)

    monkeypatch.setattr(module, "answer", note)
    return calls


def test_the_baseline_is_asked_once_per_question(desk: Desk, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    for num_keep in (9, 10):
        base, found = desk.ask(Wish("scene-1", QUESTION, (), "stride", num_keep), held, threading.Event())
        assert len(found.call.kept[0]) == num_keep and len(base.call.kept[0]) == 144
    assert calls == [(), ("Stride",), ("Stride",)]
    desk.ask(Wish("scene-1", "Is there a red circle in the image?"), held, threading.Event())
    assert calls[3:] == [()]


def test_answers_are_those_of_the_model_itself(desk: Desk, held: Held) -> None:
    base, found = desk.ask(Wish("scene-1", QUESTION, (), "stride", 50), held, threading.Event())
    prompts = module.prompts_of(
        desk.processor, [Wish("scene-1", QUESTION).sample(held.image)], [[held.image]], desk.model
    )
    for seen, parts in ((base, ()), (found, (Stride(num_keep=50),))):
        assert seen.output == answer(desk.model, desk.processor, prompts, parts, 24).outputs[0]
    assert base.output != "" and base.finite and base.wall_ms > 0


def test_nobody_waits_so_nothing_is_computed(desk: Desk, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        desk.ask(Wish("scene-1", QUESTION), held, stop)
    assert calls == []


def test_an_answer_under_way_ends_after_the_token_at_hand(desk: Desk, held: Held) -> None:
    stop, steps = threading.Event(), []

    def give_up(*_: object) -> None:
        steps.append(1)
        if len(steps) == 3:
            stop.set()

    handle = desk.model.register_forward_hook(give_up)
    try:
        with pytest.raises(Stopped):
            desk.ask(Wish("scene-1", QUESTION), held, stop)
    finally:
        handle.remove()
    assert len(steps) == 3
    base, _ = desk.ask(Wish("scene-1", QUESTION), held, threading.Event())
    assert len(base.output.split()) > 6, "what was cut off must not be remembered"


def test_flow_comes_with_the_answer_and_that_of_the_baseline_once(
    desk: Desk, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = []
    real = module.information_flow

    def note(*arguments: Any, **settings: Any) -> Any:
        flows.append(settings["gradients"])
        return real(*arguments, **settings)

    monkeypatch.setattr(module, "information_flow", note)
    for num_keep, flow in ((30, "attention"), (20, "attention"), (20, "cam"), (20, "none")):
        wish = Wish("scene-1", QUESTION, (), "stride", num_keep, flow=flow)
        base, found = desk.ask(wish, held, threading.Event())
        assert (base.flow is None) == (found.flow is None) == (flow == "none")
        if found.flow is None or base.flow is None:
            continue
        kept = found.call.kept[0]
        assert torch.equal(found.flow.visible, torch.isin(torch.arange(144), kept).expand(6, -1))
        assert (found.flow.attention[:, :, kept] > 0).all() and base.flow.visible.all()
        assert torch.allclose(found.flow.shares.sum(dim=1), torch.ones(6), atol=1e-5)
        assert (found.flow.cam is not None) == (flow == "cam")
    assert flows == [False, False, False, True, True], "baseline and method, method, and both again with gradients"


def test_a_flow_that_cannot_be_had_costs_no_answer(desk: Desk, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise UserError("nothing to\nsee")

    monkeypatch.setattr(module, "information_flow", refuse)
    base, found = desk.ask(Wish("scene-1", QUESTION, (), "stride", 9, flow="cam"), held, threading.Event())
    assert found.output != "" and found.flow is None and found.no_flow == base.no_flow == "nothing to see"


def check(family: str, folder: Path) -> None:
    """The page opens, and a method that every family runs answers on a prompt with an example."""
    model, processor = load(save_tiny_checkpoint(family, folder))
    counter = open_counter(Desk(model, processor, 3), family, 1)
    assert "scene-6" in counter.page and 'value="stride"' in counter.page
    held = counter.shelf.get("scene-1")
    wish = Wish(held.key, "what", (), "stride", 3, flow="cam")
    base, found = counter.desk.ask(wish, held, threading.Event())
    assert found.no_flow == "" and found.flow is not None and found.flow.cam is not None
    assert 'id="layer"' in result(base, found, held, [])
    assert len(found.call.kept[0]) == 3 < len(base.call.kept[0])


@pytest.mark.parametrize("family", ONES_OF_EACH_KIND)
def test_a_model_of_another_family_is_explored(family: str, tmp_path: Path) -> None:
    check(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(PROCESSORS) - set(ONES_OF_EACH_KIND)))
def test_every_family_is_explored(family: str, tmp_path: Path) -> None:
    check(family, tmp_path)


def test_the_model_goes_where_it_is_told_unless_it_is_placed_already() -> None:
    model = torch.nn.Linear(2, 2)
    assert place(model, "cpu") is model and place(model, "auto") is model
    with pytest.raises(UserError, match="device=nonsense: .*choose another device"):
        place(model, "nonsense")
    model.hf_device_map = {"": "cpu"}
    assert place(model, "nonsense") is model
