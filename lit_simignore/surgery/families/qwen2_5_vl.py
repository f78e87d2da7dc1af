"""Qwen2.5-VL. Its tower attends in windows; visual tokens leave it in row-major order all the same."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.surgery.families._mrope import MultiAxisRope


class Qwen25VL(MultiAxisRope):
    """Any resolution; see :class:`~lit_simignore.surgery.families._mrope.MultiAxisRope`."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)

    def load_processor(self, source: str, **hub: Any) -> Any:
        """The processor without its part for videos, which would need torchvision."""
        from lit_simignore.surgery.processors import ImagesOnlyQwen25VL

        return ImagesOnlyQwen25VL.from_pretrained(source, **hub)
