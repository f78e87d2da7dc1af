"""Qwen2.5-VL. Its tower attends in windows; visual tokens leave it in row-major order all the same."""

from __future__ import annotations

from typing import ClassVar

from lit_simignore.surgery.families._mrope import MultiAxisRope


class Qwen25VL(MultiAxisRope):
    """Any resolution; see :class:`~lit_simignore.surgery.families._mrope.MultiAxisRope`."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    processor: ClassVar[str] = "ImagesOnlyQwen25VL"
