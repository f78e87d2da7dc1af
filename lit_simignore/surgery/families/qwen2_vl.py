"""Qwen2-VL."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.surgery.families._mrope import MultiAxisRope


class Qwen2VL(MultiAxisRope):
    """Any resolution; see :class:`~lit_simignore.surgery.families._mrope.MultiAxisRope`."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)

    def load_processor(self, source: str, **hub: Any) -> Any:
        """The processor without its part for videos, which would need torchvision."""
        from lit_simignore.surgery.processors import ImagesOnlyQwen2VL

        return ImagesOnlyQwen2VL.from_pretrained(source, **hub)
