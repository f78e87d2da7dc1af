"""Model families. One file each, found by scanning and chosen by a model's ``config.model_type``."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from lit_simignore.discovery import discover, nearest
from lit_simignore.surgery.families.base import Family
from lit_simignore.types import UserError


@cache
def FAMILIES() -> dict[str, type[Family]]:  # noqa: N802 - reads as the constant that a scan makes it
    """Every family by the name of its file. Scanned once per process."""
    return discover(sys.modules[__name__], Family)  # type: ignore[type-abstract]


def family_of(config: Any) -> Family:
    """The family that handles models with this configuration.

    Raises:
        UserError: no family lists the model type.
    """
    model_type = str(getattr(config, "model_type", "") or type(config).__name__)
    by_type = {name: family for family in FAMILIES().values() for name in family.model_types}
    if model_type not in by_type:
        raise UserError(
            f"model type {model_type!r} belongs to no family known here; {nearest(model_type, by_type)} "
            "(a new family is one file in surgery/families)"
        )
    return by_type[model_type]()
