"""Model families. One file each, found by scanning and chosen by a model's ``config.model_type``."""

from __future__ import annotations

import sys
from typing import Any

from lit_simignore.discovery import discover, nearest
from lit_simignore.plugins import with_plugins
from lit_simignore.surgery.families.base import Family
from lit_simignore.types import UserError

__path__ = with_plugins(__path__, __name__)


def FAMILIES() -> dict[str, type[Family]]:  # noqa: N802 - reads as the constant that a scan makes it
    """Every family by the name of its file. Scanned once per process."""
    return discover(sys.modules[__name__], Family)  # type: ignore[type-abstract]


def family_of(config: Any) -> Family:
    """The family that handles models with this configuration.

    Raises:
        UserError: no family lists the model type.
    """
    model_type = str(getattr(config, "model_type", "") or type(config).__name__)
    by_type: dict[str, type[Family]] = {}
    for family in FAMILIES().values():
        for name in family.model_types:
            if name in by_type:
                both = f"{by_type[name].__name__} and {family.__name__}"
                raise UserError(f"{both} both handle model type {name!r}; take it off the list of one of them")
            by_type[name] = family
    if model_type not in by_type:
        raise UserError(
            f"model type {model_type!r} belongs to no family known here; {nearest(model_type, by_type)} "
            "(a new family is one file in surgery/families)"
        )
    return by_type[model_type]()
