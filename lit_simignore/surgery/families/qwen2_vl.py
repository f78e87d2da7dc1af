"""Qwen2-VL."""

from __future__ import annotations

from typing import ClassVar

from lit_simignore.surgery.families._mrope import MultiAxisRope


class Qwen2VL(MultiAxisRope):
    """Any resolution; see :class:`~lit_simignore.surgery.families._mrope.MultiAxisRope`."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    processor: ClassVar[str] = "ImagesOnlyQwen2VL"
