"""SmolVLM and SmolVLM2: Idefics3 with a smaller decoder, and videos, which are not supported here."""

from __future__ import annotations

from typing import ClassVar

from lit_simignore.surgery.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """As :class:`~lit_simignore.surgery.families.idefics3.Idefics3`."""

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
    processor: ClassVar[str] = "ImagesOnlySmolVLM"
