"""Which methods a model runs: asked of the model, not of a list."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_simignore.config.methods import Definitions
from lit_simignore.explore.desk import Desk
from lit_simignore.explore.examples import draw_examples
from lit_simignore.explore.offers import Offer, fit_layers, method_names
from lit_simignore.explore.shelf import Held, Shelf
from lit_simignore.explore.wish import Wish
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.plugins import VARIABLE, add_plugins
from lit_simignore.pruning import PRUNERS
from lit_simignore.surgery.load import load
from lit_simignore.types import UserError

LEADING = '''
"""Keep the first tokens."""
from dataclasses import dataclass
import torch
from lit_simignore.pruning.base import ScorePruner


@dataclass(kw_only=True)
class Leading(ScorePruner):
    """The <first> tokens stay."""

    def score(self, features):
        return -torch.arange(features.visual.shape[0], dtype=torch.float32)
'''


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(*load("pico"), max_new_tokens=4)


@pytest.fixture(scope="module")
def held(desk: Desk) -> Held:
    return Shelf(desk.processor).keep("scene-1", draw_examples()[0].image)


WISH = Wish("scene-1", "Is there a red circle in the image?")


@pytest.fixture(scope="module")
def offers(desk: Desk, held: Held) -> dict[str, Offer]:
    return {offer.name: offer for offer in desk.offers(WISH, held)}


def test_every_part_is_offered_under_one_name_at_least() -> None:
    definitions = Definitions()
    names = method_names(definitions)
    covered = {part for name in names for part in definitions.parts_of(name)}
    assert covered == {*PRUNERS(), *INTERVENTIONS()}
    assert "baseline" not in names and "random" in names and "random_tokens" not in names


def test_what_this_model_lacks_is_said(offers: dict[str, Offer]) -> None:
    assert "CDPruner needs a text tower" in offers["cdpruner"].problem
    assert offers["simignore"].problem == offers["fastv"].problem == offers["visionzip"].problem == ""


def test_a_count_is_asked_of_methods_that_keep_one(offers: dict[str, Offer]) -> None:
    assert offers["simignore"].counted and offers["pyramiddrop"].counted and offers["sparsevlm"].counted
    assert not offers["text-only"].counted and not offers["truncation"].counted


def test_published_layers_are_fitted_to_a_shallow_decoder(offers: dict[str, Offer]) -> None:
    assert offers["pyramiddrop"].settings == "layers=[2,3,4]"
    assert offers["truncation"].settings == "layer_idx=4"
    assert offers["fastv"].settings == ""  # layer 2 exists


@pytest.mark.parametrize("depth", [4, 6, 12, 24, 28, 40])
@pytest.mark.parametrize("layers", [[3, 7, 16], [8, 16, 24], 22, 2, [5]])
def test_fitted_layers_are_layers_of_the_decoder_in_order(layers: int | list[int], depth: int) -> None:
    several = layers if isinstance(layers, list) else [layers]
    fitted = fit_layers(layers, depth)
    if max(several) < depth:
        assert fitted is None
        return
    found = fitted if isinstance(layers, list) else [fitted]
    assert len(found) == len(several) and found == sorted(set(found)) and 1 <= found[0] <= found[-1] < depth
    assert all(abs(new / depth - old / 32) <= len(several) / depth for new, old in zip(found, several, strict=True))


def test_layers_that_cannot_be_fitted_are_left_alone() -> None:
    assert fit_layers([8, 16, 24], 3) is None
    assert fit_layers(None, 3) is None


def test_every_method_that_is_offered_answers(desk: Desk, held: Held, offers: dict[str, Offer]) -> None:
    answered = 0
    for offer in offers.values():
        if offer.problem or not offer.prunes or "released" in offer.name:  # those compare with options
            continue
        count = 36 if offer.counted else None
        wish = Wish(*WISH.asked, offer.name, count, tuple(offer.settings.split()))
        base, found = desk.ask(wish, held, threading.Event())
        assert (base.name, found.name) == ("baseline", wish.method)
        # merged tokens come in groups, and pictures in whole rows
        assert count is None or abs(len(found.call.kept[0]) - count) <= 4, offer.name
        answered += 1
    assert answered >= 15


def test_every_intervention_answers_alone_and_behind_a_pruner(desk: Desk, held: Held, offers: dict[str, Offer]) -> None:
    answered = set()
    for offer in offers.values():
        if offer.problem or offer.prunes:
            continue
        for prune, count in (("", None), ("stride", 36)):
            wish = Wish(*WISH.asked, prune, count, (), offer.name, tuple(offer.settings.split()))
            _, found = desk.ask(wish, held, threading.Event())
            assert found.name == wish.method and len(found.call.kept[0]) == (count or 144)
        answered.add(offer.name)
    assert answered >= {"eah", "vcd"} and not offers["eah"].counted


def test_a_method_that_the_family_does_not_offer_is_refused_in_one_line(desk: Desk, held: Held) -> None:
    with pytest.raises(UserError, match="CDPruner needs a text tower"):
        desk.ask(Wish(*WISH.asked, "cdpruner", 9), held, threading.Event())
    with pytest.raises(UserError, match="unknown method 'simignor'; did you mean 'simignore'"):
        desk.ask(Wish(*WISH.asked, "simignor", 9), held, threading.Event())


@pytest.fixture()
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of the user's own, of which nothing is left afterwards."""
    (tmp_path / "pruning").mkdir()
    (tmp_path / "pruning" / "leading.py").write_text(LEADING)
    monkeypatch.setenv(VARIABLE, "")
    add_plugins(tmp_path)
    yield
    del sys.modules["lit_simignore.pruning.leading"], sys.modules["lit_simignore.pruning"].leading


@pytest.mark.usefixtures("plugin")
def test_a_file_of_the_users_own_is_offered_without_a_list(desk: Desk, held: Held) -> None:
    (offer,) = [offer for offer in desk.offers(WISH, held) if offer.name == "leading"]
    assert (offer.sentence, offer.counted, offer.prunes, offer.problem) == ("The <first> tokens stay.", True, True, "")
    _, found = desk.ask(Wish(*WISH.asked, "leading", 5), held, threading.Event())
    assert found.call.kept[0].tolist() == [0, 1, 2, 3, 4]
