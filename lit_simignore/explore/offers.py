"""Which methods this model runs, asked of the model itself: a new file of a method is on the page at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from lit_simignore.config import folders
from lit_simignore.config.methods import Definitions, parts
from lit_simignore.config.sentences import first_line
from lit_simignore.pruning._pending import meet_budgets
from lit_simignore.pruning.base import PrefillShape, Pruner
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.spans import Spans
from lit_simignore.types import UserError

PUBLISHED_LAYERS = 32
"""Decoder layers of LLaVA-1.5-7B, for which published layer indices are meant."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One method on the page.

    Args:
        name: as ``eval.py`` calls it.
        sentence: what it does.
        prunes: whether a part of it drops visual tokens.
        counted: whether it keeps as many visual tokens as it is told.
        settings: ``FIELD=value`` that fit published layers to a decoder of another depth; empty where they fit.
        part_types: its parts by the prefix of their settings.
        problem: why this model does not run it; empty where it does.
    """

    name: str
    sentence: str
    prunes: bool
    counted: bool
    settings: str
    part_types: tuple[tuple[str, type], ...]
    problem: str = ""


@dataclass(frozen=True)
class Prober:
    """Tries methods on a model without running it.

    Args:
        model: of a known family.
        spans: of any prompt with an image.
        shape: of the same prompt.
        definitions: what names stand for.
    """

    model: nn.Module
    spans: Spans
    shape: PrefillShape
    definitions: Definitions

    def offers(self) -> list[Offer]:
        """Every method that has a part, by name."""
        return [self.offer(name) for name in method_names(self.definitions)]

    def offer(self, name: str) -> Offer:
        """The method called ``name`` on this model."""
        said = self.definitions.parts_of(name)
        types = {part: parts()[part] for part in said}
        settings = self._fitting(name, types)
        term = "@".join([name, *settings])
        counted = self._problem(lambda: self.built(f"{term}@{self.shape.num_visual // 2}")) is None
        problem = None if counted else self._problem(lambda: self.built(term))
        return Offer(
            name=name,
            sentence=" + ".join(filter(None, map(first_line, types.values()))),
            prunes=any(issubclass(cls, Pruner) for cls in types.values()),
            counted=counted,
            settings=" ".join(settings),
            part_types=tuple((f"{part}." if len(types) > 1 else "", cls) for part, cls in types.items()),
            problem=problem or "",
        )

    def built(self, name: str) -> tuple[object, ...]:
        """The parts of a method, with budgets met for the prompt.

        Raises:
            UserError: an unknown name or field, a refused value, or a budget that cannot be met.
        """
        return meet_budgets(self.definitions.method(name).parts, self.shape)

    def _problem(self, build: Callable[[], Sequence[object]]) -> str | None:
        """Why it cannot be built or attached, in one line."""
        try:
            with attach(self.model, *build(), spans=self.spans):
                return None
        except UserError as error:
            return " ".join(str(error).split())

    def _fitting(self, name: str, types: dict[str, type]) -> list[str]:
        """Settings that bring layers beyond the end of this decoder inside, at the same relative depth."""
        said = self.definitions.parts_of(name)
        found = []
        for part, cls in types.items():
            field = next((field for field in fields(cls) if field.name in ("layers", "layer_idx")), None)
            if field is None or not issubclass(cls, Pruner):
                continue
            fitted = fit_layers(said[part].get(field.name, field.default), self.shape.num_layers)
            if fitted is not None:
                key = f"{part}.{field.name}" if len(types) > 1 else field.name
                found.append(f"{key}={fitted}".replace(" ", ""))
        return found


def method_names(definitions: Definitions) -> list[str]:
    """Names to choose from: every method with parts, a part under its own name only if no file gives it another."""
    named = {name: definitions.parts_of(name) for name in definitions.names()}
    files = folders.options("method")
    alone = {next(iter(found)) for name, found in named.items() if name in files and len(found) == 1}
    return [name for name, found in named.items() if found and (name in files or name not in alone)]


def fit_layers(layers: Any, num_layers: int) -> Any:
    """Published 0-based layers at the same relative depth of a decoder of ``num_layers``, ascending and different.

    Returns:
        As many as came, from 1 to ``num_layers - 1``; ``None`` where all fit as they are, or cannot be made to.
    """
    several = list(layers) if isinstance(layers, list | tuple) else [layers]
    if not all(isinstance(layer, int) for layer in several) or max(several) < num_layers:
        return None
    if len(several) >= num_layers:
        return None
    fitted: list[int] = []
    for place, layer in enumerate(several):
        lowest = fitted[-1] + 1 if fitted else 1
        highest = num_layers - (len(several) - place)
        fitted.append(min(max(round(layer * num_layers / PUBLISHED_LAYERS), lowest), highest))
    return fitted if isinstance(layers, list | tuple) else fitted[0]
