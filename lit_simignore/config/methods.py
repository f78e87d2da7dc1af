"""Turn method names into :class:`~lit_simignore.types.Method` objects.

A name is one or more terms joined by ``+``. A term is a file of ``configs/method/`` (or a method that an overlay
defines), followed by any number of ``@`` settings::

    simignore                         the file, with what method.simignore.* overrides
    simignore+eah                     both, attached in this order
    simignore@num_keep=64             a variant under a name of its own; @PART.FIELD=value where there are several parts
    simignore@64                      64 visual tokens (budget_definition says what is counted)
    fastv@layer_mean:64               the same, and what is counted

In a composition a term's budget is that of the method as if it ended with this term.

A file maps part names to fields. Parts are looked up among the scanned pruners and interventions, by file name; a part
is a method of its own, with the defaults of its class, without a file as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from omegaconf import OmegaConf

from lit_simignore.config import folders
from lit_simignore.config.budgets import check_last, read_budget, with_budget
from lit_simignore.config.schema import BudgetDefinition
from lit_simignore.config.typed import ConfigError, build, convert_fields, join, refuse_in_one_line
from lit_simignore.discovery import nearest
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.pruning import PRUNERS
from lit_simignore.types import Method, UserError

Parts: TypeAlias = "dict[str, dict[str, Any]]"
"""Part name to its fields, in the order in which the parts are attached."""


def parts() -> dict[str, type]:
    """Every pruner and intervention by its file name.

    Raises:
        UserError: a plugin is called like a part of the other kind.
    """
    pruners, interventions = PRUNERS(), INTERVENTIONS()
    both = sorted(pruners.keys() & interventions.keys())
    if both:
        raise UserError(f"{both[0]!r} is a pruner and an intervention; rename your file")
    return {**pruners, **interventions}


@dataclass(frozen=True)
class Definitions:
    """What method names stand for: files, below what the layers of a configuration say under ``method``.

    Args:
        layers: the ``method`` section of each layer, the strongest last.
        definition: what the number after ``@`` counts.
    """

    layers: Sequence[Mapping[str, Any]] = ()
    definition: BudgetDefinition = BudgetDefinition.FINAL

    def names(self) -> list[str]:
        """Every method that can be asked for."""
        defined = {name for layer in self.layers for name, said in layer.items() if _defines_parts(said)}
        return sorted(defined | set(folders.options("method")) | set(parts()))

    def parts_of(self, name: str) -> Parts:
        """Part names and plain fields of the method ``name``.

        Raises:
            ConfigError: no such method, part or field.
        """
        if name not in self.names():
            raise ConfigError("methods", f"unknown method {name!r}; {nearest(name, self.names())}")
        found = self._from_file(name)
        for layer in self.layers:
            if name in layer:
                found = _override(found, layer[name], join("method", name))
        return found

    def _from_file(self, name: str) -> Parts:
        files = folders.options("method")
        if name in files:
            found = _checked_parts(folders.read_yaml(files[name]), join("method", name))
            if name in parts() and name not in found:
                raise ConfigError("methods", f"{name!r} is the file {files[name]} and a part of its own; rename one")
            return found
        return {name: {}} if name in parts() else {}

    def method(self, name: str) -> Method:
        """The composition called ``name``, with typed parts."""
        built = [part for term in name.split("+") for part in self._term(term.strip(), name)]
        return Method(name=name, parts=tuple(built))

    def _term(self, term: str, whole: str) -> list[object]:
        name, *settings = term.split("@")
        fields, where = self.parts_of(name), join("method", name)
        # Together, as if a file said them: of two budget fields neither silently takes the other back.
        said = OmegaConf.merge({}, *(_nested(*setting.split("=", 1)) for setting in settings if "=" in setting))
        if said:
            fields = _override(fields, cast("dict[str, Any]", OmegaConf.to_container(said)), where)
        if any("=" not in setting for setting in settings):
            fields = _provisional(fields)
        built = [_build(part, said, where if len(fields) == 1 else join(where, part)) for part, said in fields.items()]
        for setting in settings:
            if "=" not in setting:
                built = with_budget(built, self.definition, setting, whole)
        return built

    def expand(self, name: str, budgets: Sequence[int | str]) -> list[str]:
        """``name`` once per budget, as ``term@budget``; a method without an open budget stays what it is.

        Args:
            name: a method.
            budgets: each a number, or a definition and a number as in ``flops:64``.
        """
        terms = [term.strip() for term in name.split("+")]
        takes = [index for index, term in enumerate(terms) if self._takes_budget(term)]
        if not budgets or not takes:
            return [name]
        if len(takes) > 1:
            raise ConfigError("budgets", f"cannot be split over the pruners of {name!r}; fix all but one with @budget")
        curve = []
        for budget in budgets:
            with_it = [f"{term}@{budget}" if index in takes else term for index, term in enumerate(terms)]
            built = [self._term(term, "+".join(with_it)) for term in with_it]
            definition, _ = read_budget(str(budget), self.definition, "budgets")
            check_last([part for parts in built for part in parts], built[takes[0]], definition, name)
            curve.append("+".join(with_it))
        return curve

    def _takes_budget(self, term: str) -> bool:
        name, *settings = term.split("@")
        budget_fields = {field for part in self.parts_of(name) for field in _budget_fields(part)}
        fixed = any("=" not in setting or setting.split("=")[0].split(".")[-1] in budget_fields for setting in settings)
        return bool(budget_fields) and not fixed


def build_methods(names: Sequence[str], budgets: Sequence[int | str], definitions: Definitions) -> list[Method]:
    """Every method of a run with its parts built, the untouched model first.

    Raises:
        ConfigError: an unknown name, part or field, a refused value, or the same name twice.
    """
    for layer in definitions.layers:
        for name in layer:
            definitions.method(name)  # a mistake in a method that this run leaves out is still a mistake
    expanded = [each for name in names for each in definitions.expand(name, budgets)]
    twice = sorted({name for name in expanded if expanded.count(name) > 1})
    if twice or not expanded:
        came = f"{twice[0]!r} twice" if twice else "none"
        raise ConfigError("methods", f"expected one or more methods, each once; got {came}")
    return sorted((definitions.method(name) for name in expanded), key=lambda method: bool(method.parts))


def used_definitions(names: Sequence[str], definitions: Definitions) -> dict[str, Parts]:
    """The parts of every term of ``names``, so that a saved configuration does not depend on ``configs/``."""
    terms = sorted({term.strip().split("@")[0] for name in names for term in name.split("+")})
    return {term: definitions.parts_of(term) for term in terms}


def _override(base: Parts, said: Any, where: str) -> Parts:
    """``base`` with what a stronger layer says: fields of the only part, or parts with their fields."""
    if not isinstance(said, Mapping):
        raise ConfigError(where, f"expected fields of the method, got {said!r}; write {where}.FIELD=value")
    if not base:
        return _checked_parts(said, where)
    if not all(name in base and isinstance(fields, Mapping) for name, fields in said.items()):
        if len(base) > 1:
            wrong = next(name for name, fields in said.items() if name not in base or not isinstance(fields, Mapping))
            raise ConfigError(join(where, wrong), f"expected {where}.PART.FIELD; {nearest(wrong, base)}")
        said = {next(iter(base)): said}
    return {part: _merged(part, fields, said.get(part, {})) for part, fields in base.items()}


def _merged(part: str, base: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Budget fields exclude each other, so setting one takes the others back; a preset takes everything back."""
    if said.get("preset") is not None:
        return dict(said)
    budget = _budget_fields(part)
    if any(said.get(name) not in (None, "null", "None") for name in budget):
        base = {name: value for name, value in base.items() if name not in budget}
    return {**base, **said}


def _provisional(fields: Parts) -> Parts:
    """A budget for parts that have none yet: they cannot be built without, and ``with_budget`` replaces it."""
    return {part: {**said, "num_keep": 0} if _lacks_budget(part, said) else said for part, said in fields.items()}


def _lacks_budget(part: str, said: Mapping[str, Any]) -> bool:
    cls = parts()[part]
    counts = "num_keep" in _budget_fields(part) and not getattr(cls, "adaptive", False)
    return counts and not {"preset", *_budget_fields(part)} & set(said)


def _checked_parts(said: Mapping[str, Any], where: str) -> Parts:
    for part, fields in said.items():
        if part not in parts():
            raise ConfigError(join(where, part), f"unknown part; {nearest(part, parts())}")
        if not isinstance(fields, Mapping | None):
            raise ConfigError(join(where, part), f"expected fields of the part, got {fields!r}")
    return {part: dict(fields or {}) for part, fields in said.items()}


def _defines_parts(said: object) -> bool:
    return isinstance(said, Mapping) and all(name in parts() for name in said)


def _budget_fields(part: str) -> tuple[str, ...]:
    return getattr(parts()[part], "budget_fields", ())


def _nested(key: str, text: str) -> dict[str, Any]:
    """``part.field`` and a text as the mapping that YAML would give."""
    value: Any = text
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def _build(part: str, fields: Mapping[str, Any], where: str) -> object:
    cls = parts()[part]
    if "preset" not in fields:
        return build(cls, fields, where)
    preset = getattr(cls, "preset", None)
    if preset is None:
        raise ConfigError(join(where, "preset"), f"{cls.__name__} has no presets; set its fields")
    others = convert_fields(cls, {name: value for name, value in fields.items() if name != "preset"}, where)
    return refuse_in_one_line(where, lambda: preset(str(fields["preset"]), **others))
