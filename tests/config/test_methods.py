"""Method names become parts: files, overrides, compositions, variants, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.config import folders
from lit_simignore.config.methods import Definitions, build_methods, used_definitions
from lit_simignore.config.schema import BudgetDefinition
from lit_simignore.config.typed import ConfigError
from lit_simignore.pruning._pending import PendingBudget
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.prumerge import PruMerge
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.pruning.sparsevlm import SparseVLM
from lit_simignore.pruning.stride import Stride
from lit_simignore.pruning.truncation import Truncation
from lit_simignore.types import Method

FILES = {
    "baseline": "{}",
    "simignore": "simignore: {keep_ratio: 0.5, text: question}",
    "two": "simignore: {keep_ratio: 0.5}\nfastv: {layer_idx: 3, num_keep: 9}",
    "even": "stride: {num_keep: 7}",
    "published": "simignore: {preset: released-7b, text: prompt}",
    "broken": "strid: {num_keep: 7}",
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "method"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "_ROOTS", ())


def built(names: Sequence[str], *layers: Mapping[str, Any], budgets: Sequence[int | str] = ()) -> list[Method]:
    return build_methods(names, budgets, Definitions(layers))


def only_part(name: str, *layers: Mapping[str, Any]) -> Any:
    (part,) = built([name], *layers)[0].parts
    return part


def refused(names: Sequence[str], *layers: Mapping[str, Any], budgets: Sequence[int | str] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        built(names, *layers, budgets=budgets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_untouched_model_comes_first_and_has_no_parts() -> None:
    methods = built(["simignore", "baseline"])
    assert [method.name for method in methods] == ["baseline", "simignore"]
    assert methods[0].parts == ()
    assert methods[1].parts == (Simignore(keep_ratio=0.5, text="question"),)


def test_one_budget_field_takes_back_the_others_of_weaker_layers() -> None:
    assert only_part("simignore", {"simignore": {"num_keep": "64"}}) == Simignore(num_keep=64, text="question")
    layers = {"simignore": {"num_keep": 64}}, {"simignore": {"min_similarity": "0.1"}}
    assert only_part("simignore", *layers) == Simignore(min_similarity=0.1, text="question")
    assert only_part("simignore", {"simignore": {"num_keep": None}}) == Simignore(keep_ratio=0.5, text="question")


def test_a_plus_attaches_both_in_order() -> None:
    (method,) = built(["even+simignore"])
    assert method.name == "even+simignore"
    assert method.parts == (Stride(num_keep=7), Simignore(keep_ratio=0.5, text="question"))


def test_an_at_sign_makes_a_named_variant_without_touching_the_method() -> None:
    plain, variant = built(["simignore", "simignore@num_keep=64@text=options"])
    assert plain.parts == (Simignore(keep_ratio=0.5, text="question"),)
    assert variant.name == "simignore@num_keep=64@text=options"
    assert variant.parts == (Simignore(num_keep=64, text="options"),)


def test_parts_of_a_composed_file_are_addressed_by_name() -> None:
    (method,) = built(["two@fastv.num_keep=4"], {"two": {"simignore": {"num_keep": "20"}}})
    assert method.parts == (Simignore(num_keep=20), FastV(layer_idx=3, num_keep=4))
    assert "method.two.num_keep: expected method.two.PART.FIELD" in refused(["two"], {"two": {"num_keep": 3}})


def test_an_overlay_may_define_a_method() -> None:
    (method,) = built(["mine"], {"mine": {"stride": {"num_keep": 5}, "fastv": {"num_keep": 2}}})
    assert method.parts == (Stride(num_keep=5), FastV(num_keep=2))


def test_a_scanned_part_is_a_method_without_a_file() -> None:
    assert only_part("random_tokens@num_keep=3").num_keep == 3
    assert only_part("random_tokens@3").num_keep == 3
    assert "takes exactly one of num_keep, keep_ratio; got none" in refused(["random_tokens"])


def test_a_preset_is_asked_of_the_class_with_the_other_fields_on_top() -> None:
    assert only_part("published") == Simignore.preset("released-7b", text="prompt")
    assert only_part("published@num_keep=10") == Simignore.preset("released-7b", text="prompt", num_keep=10)
    assert only_part("simignore@preset=paper") == Simignore.preset("paper")
    assert "method.published: unknown Simignore preset 'released-9b'" in refused(["published@preset=released-9b"])


def test_budgets_repeat_every_method_that_has_an_open_budget() -> None:
    methods = built(["baseline", "simignore", "text_only", "simignore@num_keep=3", "fastv"], budgets=[8, 16])
    names = ["baseline", "simignore@8", "simignore@16", "text_only", "simignore@num_keep=3", "fastv@8", "fastv@16"]
    assert [method.name for method in methods] == names
    assert methods[1].parts == (Simignore(num_keep=8, text="question"),)
    assert methods[-1].parts == (FastV(num_keep=16),)
    curve = built(["simignore@4+fastv"], budgets=[2])
    assert [(method.name, method.parts) for method in curve] == [
        ("simignore@4+fastv@2", (Simignore(num_keep=4, text="question"), FastV(num_keep=2)))
    ]


def test_a_budget_needs_one_pruner_to_spend_it() -> None:
    assert "cannot be split over the pruners of 'simignore+fastv'" in refused(["simignore+fastv"], budgets=[4])
    assert "@4 in 'two@4' needs one pruner, got 2" in refused(["two"], budgets=[4])
    assert "expected a number of visual tokens" in refused(["simignore@half"])
    assert "computes every visual token" in refused(["simignore@apply=mask@4"])


def test_a_budget_that_depends_on_the_model_waits_for_it() -> None:
    definitions = Definitions((), BudgetDefinition.LAYER_MEAN)
    assert build_methods(["simignore"], [4], definitions)[0].parts == (Simignore(num_keep=4, text="question"),)
    (waiting,) = build_methods(["fastv"], [4], definitions)[0].parts
    assert waiting == PendingBudget(FastV(num_keep=0), "layer_mean", 4)
    assert build_methods(["fastv"], [4], Definitions())[0].parts == (FastV(num_keep=4),)


def test_a_budget_may_say_itself_what_it_counts() -> None:
    first, second = built(["fastv@flops:20", "simignore@layer_mean:9"])
    assert first.name == "fastv@flops:20"
    assert first.parts == (PendingBudget(FastV(num_keep=0), "flops", 20),)
    assert second.parts == (Simignore(num_keep=9, text="question"),)
    (curve,) = built(["fastv"], budgets=["final:7"])
    assert (curve.name, curve.parts) == ("fastv@final:7", (FastV(num_keep=7),))
    assert "expected one of input, final, layer_mean, flops, got 'mean'" in refused(["fastv@mean:3"])
    assert "expected a number of visual tokens" in refused(["fastv@flops:"])
    assert ">= 0; got -3" in refused(["fastv@flops:-3"])


def test_methods_of_several_drops_and_those_that_find_their_own_count_take_a_budget() -> None:
    assert only_part("pyramiddrop@8").num_keep == (32, 16, 8)
    assert only_part("pyramiddrop@num_keep=[9,8,7]").num_keep == [9, 8, 7]
    assert only_part("prumerge@8") == PruMerge(num_keep=8)
    assert only_part("sparsevlm@8") == PendingBudget(SparseVLM(), "final", 8)
    assert only_part("simignore@min_similarity=0.1@8") == Simignore(num_keep=8, text="question")
    (curve,) = build_methods(["truncation"], ["layer_mean:30"], Definitions())
    assert curve.parts == (PendingBudget(Truncation(), "layer_mean", 30),)
    assert "leaves 0 visual tokens after the last layer" in refused(["truncation"], budgets=[8])


def test_the_budget_of_a_composition_goes_to_the_pruner_that_drops_last() -> None:
    (method,) = built(["fastv+simignore@num_keep=20"], budgets=["layer_mean:8"])
    assert method.name == "fastv@layer_mean:8+simignore@num_keep=20"
    words = refused(["simignore+fastv@num_keep=5"], budgets=["layer_mean:8"])
    assert "FastV drops last in 'simignore+fastv@num_keep=5'" in words
    (method,) = built(["simignore+fastv@num_keep=5"], budgets=["input:8"])
    assert method.parts == (Simignore(num_keep=8, text="question"), FastV(num_keep=5))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["simignor"], "methods: unknown method 'simignor'; did you mean 'simignore'?"),
        (["simignore@num_kep=3"], "method.simignore.num_kep: unknown key; did you mean 'num_keep'?"),
        (["two@num_keep=3"], "method.two.num_keep: expected method.two.PART.FIELD; valid: fastv, simignore"),
        (["simignore@num_keep=x"], "method.simignore.num_keep: expected an integer or null, got 'x'"),
        (["simignore@keep_ratio=2"], "method.simignore: keep_ratio must lie between 0 and 1"),
        (["broken"], "method.broken.strid: unknown part; did you mean 'stride'?"),
        (["even", "even"], "got 'even' twice"),
        ([], "got none"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest(names: list[str], words: str) -> None:
    assert words in refused(names)


def test_a_mistake_in_a_method_that_is_not_run_is_still_one() -> None:
    assert "unknown method 'simignor'" in refused(["baseline"], {"simignor": {"num_keep": 3}})
    assert "method.even.num_kep" in refused(["baseline"], {"even": {"num_kep": 3}})


def test_used_definitions_stand_without_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers = ({"two": {"fastv": {"num_keep": 4}}}, {"simignore": {"num_keep": 5}})
    names = ["baseline", "two", "simignore@text=options"]
    before = build_methods(names, [], Definitions(layers))
    saved = used_definitions(names, Definitions(layers))
    monkeypatch.chdir(tmp_path / "configs")
    assert build_methods(names, [], Definitions((saved,))) == before


def test_two_budgets_in_one_variant_are_refused_instead_of_the_last_one_winning() -> None:
    with pytest.raises(ConfigError, match=r"takes exactly one of .*; got num_keep=3, keep_ratio=0.5"):
        build_methods(["simignore@num_keep=3@keep_ratio=0.5"], [], Definitions())
