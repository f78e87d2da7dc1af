"""One drop of one method: a pruner at its place, checked against what there is to read there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lit_simignore.interventions.base import Intervention
from lit_simignore.pruning.base import Need, Pruner
from lit_simignore.surgery.prompt import AFTER_IMAGE
from lit_simignore.surgery.spans import Spans
from lit_simignore.types import UserError

ENDS_OF_PROMPTS = frozenset({Need.TEXT, Need.QUERY_ATTENTION, Need.OWN_ATTENTION, Need.TEXT_ATTENTION})
"""What is not there yet while a prompt comes in pieces."""


@dataclass(frozen=True, slots=True, eq=False)
class Drop:
    """A pruner that runs at one place.

    Args:
        method: class of the part that the user gave; methods with several stages are made of pruners of their own.
        pruner: what decides.
    """

    method: str
    pruner: Pruner

    @property
    def layer_idx(self) -> int | None:
        """0-based decoder layer before which it runs; ``None`` before the decoder."""
        return self.pruner.stage

    @property
    def needs(self) -> frozenset[Need]:
        """What it reads."""
        return self.pruner.needs

    @property
    def scope(self) -> str | None:
        """Which text it compares with; ``None`` if it reads no text."""
        return getattr(self.pruner, "text", "prompt") if Need.TEXT in self.pruner.needs else None

    @property
    def hides(self) -> bool:
        """Whether dropped tokens are hidden from attention instead of taken out."""
        return bool(getattr(self.pruner, "apply", "drop") == "mask")

    @property
    def returns(self) -> bool:
        """Whether tokens that were only hidden before can be kept here, and are seen again."""
        return bool(getattr(self.pruner, "hidden", "stay") == "return")

    @property
    def renumbers(self) -> bool:
        """Whether it closes positions up."""
        return self.pruner.positions == "renumber"


def drops_of(
    parts: Sequence[object],
    before: frozenset[Need],
    inside: frozenset[Need],
    model: str,
    instead: Mapping[Need, str] = MappingProxyType({}),
) -> tuple[Drop, ...]:
    """The single drops that ``parts`` are made of.

    Args:
        parts: what the user gave.
        before: what rules before the decoder may read.
        inside: what rules inside it may read.
        model: name of the family, for messages.
        instead: what to do about a need that is not served, for messages.

    Raises:
        UserError: a part that is neither pruner nor intervention; a need that is not served; drops before the decoder
            that contradict each other; dropped tokens that are to be hidden inside the decoder.
    """
    drops: list[Drop] = []
    for part in parts:
        if isinstance(part, Intervention):
            continue
        if not isinstance(part, Pruner):
            raise UserError(
                f"attach takes pruners such as Simignore(num_keep=64) and interventions such as EAH(); got {part!r}"
            )
        found = [Drop(type(part).__name__, stage) for stage in part.stages()]
        for drop in found:
            missing = drop.needs - (before if drop.layer_idx is None else inside)
            if missing:
                raise UserError(_refusal(drop.method, missing, model, instead))
            if drop.hides and drop.layer_idx is not None:
                raise UserError(f"{drop.method} hides tokens before the decoder only; use apply='drop' inside it")
        drops += found
    entry = [drop for drop in drops if drop.layer_idx is None]
    _check_alike("apply", {"mask" if drop.hides else "drop" for drop in entry})
    _check_alike("positions", {drop.pruner.positions for drop in entry})
    if any(drop.hides and drop.renumbers for drop in entry) and any(drop.returns for drop in drops):
        raise UserError("hidden tokens that return need their positions; use positions='original' or hidden='stay'")
    return tuple(drops)


def _refusal(method: str, missing: frozenset[Need], model: str, instead: Mapping[Need, str]) -> str:
    names = ", ".join(sorted(need.value for need in missing))
    ways = "".join(f": {instead[need]}" for need in sorted(missing) if need in instead)
    return f"{method} needs {names}, which {model} models do not offer{ways}"


def check_text(drops: Sequence[Drop], spans: Spans | None) -> None:
    """Refuse a text scope that only spans can tell where there are none."""
    for drop in drops:
        if spans is None and drop.scope not in (None, "prompt", AFTER_IMAGE):
            raise UserError(
                f"{drop.method}(text={drop.scope!r}) needs to know where the {drop.scope} are: pass spans= from "
                "prepare(processor, samples), or use text='prompt'"
            )


def _check_alike(field: str, values: set[str]) -> None:
    if len(values) > 1:
        raise UserError(
            f"pruners of one attach must agree on {field}; got {' and '.join(sorted(values))}: set one value"
        )
