"""Methods are matched once the model is there, and the run says on what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lit_simignore.engine.evaluate import evaluate
from lit_simignore.pruning._pending import PendingBudget
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.types import Method, Sample, UserError
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor, settings

FASTV = Method("fastv@layer_mean:11", (PendingBudget(FastV(num_keep=0), "layer_mean", 11),))
PYRAMID = Method("pyramid@flops:9", (PendingBudget(PyramidDrop(layers=(1, 2), keep_ratio=(0.5, 0.25)), "flops", 9),))


def test_a_run_spends_what_was_asked_for_and_says_on_which_prompt_it_was_matched(tmp_path: Path) -> None:
    summary = evaluate(*model_and_processor(), Toy(size=3), (BASELINE, FASTV, PYRAMID), tmp_path, settings())
    rows = {row["name"]: row["budget"] for row in summary["methods"]}
    assert rows[FASTV.name]["layer_mean"] == pytest.approx(11, abs=0.5)
    assert rows[PYRAMID.name]["flops"] == pytest.approx(9, abs=0.5)
    matched = summary["run"]["budgets_matched_on"]
    assert (matched["sample_id"], matched["visual_tokens"]) == ("q0", 16)
    assert matched["text_tokens"] > 10
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["methods"][FASTV.name]["parts"][0]["num_keep"] == 6, "2 layers of 16 and 2 of 6 make 11"
    again = evaluate(*model_and_processor(), Toy(size=2), (FASTV,), tmp_path, settings())
    assert again["methods"][0]["n"] == 2, "fewer samples of the same benchmark are the same run"


def test_where_nothing_waits_nothing_is_looked_at(tmp_path: Path) -> None:
    summary = evaluate(*model_and_processor(), Toy(size=1), (BASELINE, STRIDE), tmp_path, settings())
    assert "budgets_matched_on" not in summary["run"]


def test_a_budget_out_of_reach_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    method = replace(FASTV, parts=(PendingBudget(FastV(num_keep=0), "layer_mean", 3),))
    with pytest.raises(UserError, match=r"fastv@layer_mean:11: FastV spends at least 8 visual tokens \(layer_mean\)"):
        evaluate(*model_and_processor(), Toy(size=1), (method,), tmp_path, settings())


def test_a_sample_that_cannot_be_opened_is_passed_over(tmp_path: Path) -> None:
    def broken(sample: Sample) -> Sample:
        return replace(sample, images=(tmp_path / "none.png",)) if sample.sample_id == "q0" else sample

    summary = evaluate(*model_and_processor(), Toy(size=2, change=broken), (FASTV,), tmp_path / "run", settings())
    assert summary["run"]["budgets_matched_on"]["sample_id"] == "q1"
    blind = Toy(size=2, change=lambda sample: replace(sample, images=()))
    with pytest.raises(UserError, match="none could be made: no images"):
        evaluate(*model_and_processor(), blind, (FASTV,), tmp_path / "blind", settings())
