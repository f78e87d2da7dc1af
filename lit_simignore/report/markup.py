"""The only way in which markup is made here: elements whose text and attributes are escaped unless they are markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from lit_simignore.report.formats import clean

_VOID = frozenset(
    {"meta", "link", "input", "img", "br", "hr", "path", "rect", "line", "circle", "use", "image", "polyline"}
)


class Markup(str):
    """Text that is markup already. Only :func:`element` and :func:`join` make it."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Text for element contents or a double-quoted attribute, also in XML; characters XML cannot bear are replaced."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text), quote=True))


def join(parts: Iterable[object]) -> Markup:
    """Concatenate; ``None`` is left out, whatever is no :class:`Markup` is escaped."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element of HTML or SVG.

    Args:
        name: tag name, never from data.
        children: markup, or anything else as escaped text; ``None`` is left out.
        attributes: ``class_`` stands for ``class``, ``stroke_width`` for ``stroke-width``; ``None`` and ``False`` leave
            one out, ``True`` writes it without a value of its own, numbers are written short.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f' {name}=""'
    return f' {name}="{short(value) if isinstance(value, float) else escape(value)}"'


def short(value: float) -> str:
    """A coordinate with at most two decimals and no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"
