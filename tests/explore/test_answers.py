"""Answers as markup: what is drawn, and that nothing foreign gets through."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lit_simignore.explore.answers import result
from lit_simignore.explore.desk import Answered
from lit_simignore.explore.shelf import Held, Shelf
from lit_simignore.surgery.flow import Flow
from lit_simignore.surgery.trace import CallTrace, EditTrace, StageTrace
from lit_simignore.types import Budget
from tests.report.pages import Page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
FULL = Budget(total=12, input=12, final=12, layer_mean=12, flops=12, prefill_tflops=4e-4)
HALF = Budget(total=12, input=6, final=6, layer_mean=6, flops=6.2, prefill_tflops=2e-4)


def stage(name: str, layer_idx: int | None, kept: list[int]) -> StageTrace:
    return StageTrace(name, layer_idx, kept=[torch.tensor(kept)])


def answered(name: str, output: str, budget: Budget, *stages: StageTrace, grid: tuple[int, int] = (3, 4)) -> Answered:
    call = CallTrace(num_visual=[12], grids=[(grid,)], stages=list(stages), budgets=[budget])
    return Answered(name, output, True, call, budget, 12.5, torch.tensor([1]))


def flow(image_share: list[float], *, cam: bool = False) -> Flow:
    """Two layers, two heads, 12 visual tokens, of which token 5 gets everything in layer 1."""
    attention = torch.full((2, 2, 12), 0.05)
    attention[1] = 0
    attention[1, :, 5] = 0.5
    share = torch.tensor(image_share)
    shares = torch.stack([0.9 - share, share, torch.full_like(share, 0.1), torch.zeros_like(share)], dim=1)
    return Flow(
        layers=(0, 1), shares=shares, even=torch.tensor([[0.1, 0.7, 0.2, 0.0]] * 2), attention=attention,
        received=attention, visible=torch.ones(2, 12, dtype=torch.bool), grids=((3, 4),), length=20,
        cam=attention.mean(dim=1) if cam else None,
    )  # fmt: skip


BASE = answered("baseline", "yes", FULL)
FOUND = answered("stride@6", "no", HALF, stage("Stride", None, [0, 2, 4, 6, 8, 10]))


@pytest.fixture()
def held() -> Held:
    return Shelf(None).add(Image.new("RGB", (40, 30), "blue"))


def test_both_answers_stand_side_by_side_with_their_tokens(held: Held) -> None:
    page = Page(result(BASE, FOUND, held, []))
    assert page.classes["tile"] == 2 and page.classes["dropped"] == 1
    assert "12 of 12 visual tokens" in page.text and "6 of 12 visual tokens" in page.text
    assert "Another answer than the untouched model." in page.text
    assert "stride@6: image, 6 visual tokens of 12 kept" in page.values("aria-label")
    assert "Same answer" in Page(result(BASE, replace(FOUND, output="yes"), held, [])).text


def test_costs_are_those_of_the_budgets(held: Held) -> None:
    text = " ".join(Page(result(BASE, FOUND, held, []).replace("<", " <")).text.split())
    for row in (
        "visual tokens at the input 12 6 0.50x",
        "… of equal prefill FLOPs 12 6.2 0.52x",
        "prefill GFLOPs 0.400 0.200 0.50x",
    ):
        assert row in text


def test_the_untouched_model_alone_is_compared_with_nothing(held: Held) -> None:
    page = Page(result(BASE, BASE, held, []))
    assert page.classes["tile"] == 1 and page.classes["verdict"] == 0 and "ratio" not in page.text


def test_what_an_intervention_noted_is_listed(held: Held) -> None:
    noted = {"winning_head": torch.tensor([3]), "sink_counts": torch.tensor([[1, 0, 2, 7]]), "acts": True}
    edits = [EditTrace("EAH", 1, noted), EditTrace(EVIL, 2, {})]
    found = replace(FOUND, call=replace(FOUND.call, edits=edits))
    page = Page(result(BASE, found, held, []))
    assert "EAH in layer 1: winning head 3; sink counts 1 0 2 7" in page.text
    assert page.tags["li"] == 1 and Page(result(BASE, FOUND, held, [])).tags["li"] == 0


def test_flow_is_one_slider_over_the_maps_of_both_answers_and_their_shares(held: Held) -> None:
    shown = replace(BASE, flow=flow([0.6, 0.3])), replace(FOUND, flow=flow([0.2, 0.45]))
    page = Page(result(*shown, held, []))
    assert page.classes["heat"] == 2 and page.values("id").count("layer") == 1
    slider = [value for tag, name, value in page.attributes if tag == "input" and name in ("min", "max", "value")]
    assert slider == ["0", "1", "1"]
    for words in (
        "image gets 60% of the attention",
        "image gets 45% of the attention",
        "baseline looks at the image most in layer 0 (60%)",
        "stride@6 looks at the image most in layer 1 (45%)",
        "image, if attention were even: 70%",
    ):
        assert words in page.text
    with_cam = replace(FOUND, flow=flow([0.2, 0.45], cam=True))
    assert Page(result(shown[0], with_cam, held, [])).classes["heat"] == 3


def test_flow_without_a_grid_is_shares_and_a_reason_without_flow_is_said(held: Held) -> None:
    no_grid = replace(answered("baseline", "yes", FULL, grid=(2, 2)), flow=flow([0.6, 0.3]))
    page = Page(result(no_grid, replace(FOUND, no_flow=f"no {EVIL}"), held, []))
    assert page.classes["heat"] == 0 and "baseline looks at the image most" in page.text
    assert f"stride@6: no {EVIL}" in page.text and page.tags["script"] == 0


def test_several_drops_are_drawn_one_by_one(held: Held) -> None:
    stages = [stage("A", 2, list(range(8))), stage("A", 4, [0, 1])]
    page = Page(result(BASE, answered("a", "no", HALF, *stages), held, []))
    assert page.classes["tile"] == 4 and page.classes["dropped"] == 3
    assert "A before layer 2: 8 tokens" in page.text and "A before layer 4: 2 tokens" in page.text


def test_tokens_that_are_no_grid_are_counted_and_not_drawn(held: Held) -> None:
    found = answered("stride@6", "no", HALF, stage("Stride", None, [0, 1]), grid=(2, 2))
    page = Page(result(BASE, found, held, []))
    assert page.classes["dropped"] == 0 and page.classes["missing"] == 1
    assert "2 of 12 visual tokens" in page.text


def test_numbers_that_are_none_are_an_error(held: Held) -> None:
    page = Page(result(BASE, replace(FOUND, finite=False, output="nonsense"), held, []))
    assert "logits are not numbers" in page.text and "nonsense" not in page.text


def test_nothing_that_a_model_or_a_user_wrote_becomes_markup(held: Held) -> None:
    found = replace(FOUND, name=f"m@{EVIL}", output=f"{EVIL}\x1b[31m\ud800")
    stages = [stage(EVIL, None, [0]), stage(EVIL, 2, [0])]
    found = replace(found, call=replace(found.call, stages=stages))
    page = Page(result(BASE, found, held, [EVIL]))
    assert page.tags["script"] == 0 and page.tags["img"] == 0 and not page.values("onerror")
    assert EVIL in page.text and "\x1b" not in page.text
