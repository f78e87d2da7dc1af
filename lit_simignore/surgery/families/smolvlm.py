"""SmolVLM and SmolVLM2: Idefics3 with a smaller decoder, and videos, which are not supported here."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.surgery.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """As :class:`~lit_simignore.surgery.families.idefics3.Idefics3`."""

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)

    def load_processor(self, source: str, **hub: Any) -> Any:
        """The processor without its part for videos, which would need torchvision and num2words."""
        from lit_simignore.surgery.processors import ImagesOnlySmolVLM

        return ImagesOnlySmolVLM.from_pretrained(source, **hub)
