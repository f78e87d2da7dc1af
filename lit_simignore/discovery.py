"""Find extensions by scanning a folder: a file's name is the extension's name, and it defines exactly one class."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import TypeVar

from lit_simignore.types import UserError

T = TypeVar("T")


def discover(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """Map module name to the one subclass of ``base`` that the module defines, sorted by name.

    Modules whose name begins with ``_`` and the module that defines ``base`` are no extensions.

    Raises:
        ImportError: a module defines no such class, or more than one.
    """
    found: dict[str, type[T]] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        module_name = f"{package.__name__}.{info.name}"
        if info.name.startswith("_") or module_name == base.__module__:
            continue
        module = importlib.import_module(module_name)
        found[info.name] = _only_class(module, base)
    return found


def _only_class(module: ModuleType, base: type[T]) -> type[T]:
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if len(classes) != 1:
        names = [value.__name__ for value in classes] or "none"
        raise ImportError(f"{module.__name__} must define exactly one {base.__name__}, found {names}")
    return classes[0]


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause for error messages: the closest valid names, else all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"valid: {', '.join(names) or 'none'}"


def pick(kind: str, name: str, valid: dict[str, T]) -> T:
    """Look ``name`` up, or raise a :class:`UserError` that names the nearest valid one."""
    if name not in valid:
        raise UserError(f"unknown {kind} {name!r}; {nearest(name, valid)}")
    return valid[name]
