"""Tables of the pages against what the package finds by scanning: a new file without a line in its table is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.config import folders
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.pruning import PRUNERS
from lit_simignore.pruning.base import Pruner
from lit_simignore.surgery.families import FAMILIES
from tests.contracts.test_family_methods import missing
from tests.docs.pages import ROOT

NOT_ATTACHED = "cdpruner"
"""Refused on every family: the page says so above its table."""


def rows(page: str, head: str) -> list[list[str]]:
    """Cells of the table below the first line that begins with ``head``."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = re.match(r"(?:\|.*\n)+", text[text.index(f"\n{head}") + 1 :])
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def methods_of(name: str) -> set[str]:
    """Files of ``configs/method/`` that consist of the part ``name``."""
    return {method for method, path in folders.options("method").items() if list(folders.read_yaml(path)) == [name]}


@pytest.mark.parametrize(("heading", "found"), [("## Pruners", PRUNERS), ("## Interventions", INTERVENTIONS)])
def test_every_method_is_on_its_page(heading: str, found: Callable[[], dict[str, type]]) -> None:
    listed = {quoted(row[0])[0]: row for row in rows_below(heading)}
    by_class = {cls.__name__: (name, cls) for name, cls in found().items()}
    assert listed.keys() == by_class.keys()
    for called, row in listed.items():
        name, cls = by_class[called]
        assert set(quoted(row[1])) == methods_of(name), called
        assert quoted(row[-1]) == list(cls.presets), called


def rows_below(heading: str) -> list[list[str]]:
    """The table of ``methods.md`` that stands below a heading."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    table = re.search(r"^\| class .*\n(?:\|.*\n)+", text[text.index(heading) :], re.M)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[0].splitlines()[2:]]


def test_pruners_prune_where_the_page_says() -> None:
    by_class = {cls.__name__: name for name, cls in PRUNERS().items()}
    for called, methods, where, *_ in rows_below("## Pruners"):
        inside = [stage.stage for stage in standard(by_class[quoted(called)[0]], quoted(methods)[0]).stages()]
        if inside == [None]:
            assert where in ("before the decoder", "the vision tower"), called
        else:
            assert where == ("three layers" if len(inside) == 3 else f"layer {inside[0]}"), called


def standard(name: str, method: str) -> Pruner:
    """The pruner as its file in ``configs/method/`` sets it."""
    pruner: Pruner = PRUNERS()[name](**folders.read_yaml(folders.option("method", method))[name])
    return pruner


def test_every_family_is_on_its_page_with_what_it_refuses() -> None:
    table = rows("your-model.md", "| family |")
    listed = {model_type: quoted(row[2]) for row in table for model_type in quoted(row[1])}
    types = {model_type: name for name, cls in FAMILIES().items() for model_type in cls.model_types}
    assert listed.keys() == types.keys()
    for model_type, name in types.items():
        refused = {pruner for pruner in PRUNERS() if missing(name, pruner)}
        assert NOT_ATTACHED in refused
        assert set(listed[model_type]) == refused - {NOT_ATTACHED}, model_type


def test_every_benchmark_is_on_its_page_with_its_protocols() -> None:
    listed = {quoted(row[0])[0]: quoted(row[2]) for row in rows("benchmarks.md", "| name |")}
    assert listed.keys() == BENCHMARKS().keys()
    for name, cls in BENCHMARKS().items():
        known = {protocol.split("/")[0] for protocol in getattr(cls, "protocols", ())}
        assert set(listed[name]) == known, name
        assert not known or listed[name][0] == cls.__dataclass_fields__["protocol"].default, name
