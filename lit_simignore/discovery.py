"""Find extensions by scanning a folder: a file's name is the extension's name, and it defines exactly one class."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

from lit_simignore.plugins import plugin_folders, with_plugins
from lit_simignore.types import UserError

T = TypeVar("T")

_FOUND: dict[tuple[object, ...], dict[str, Any]] = {}


class WrongNumber(ImportError):
    """A module without an extension, or with several."""


def discover(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """Map module name to the one subclass of ``base`` that the module defines, sorted by name.

    Modules whose name begins with ``_`` and the module that defines ``base`` are no extensions. The folder is scanned
    once, and again when plugins were added.

    Raises:
        ImportError: a module of the package defines no such class, or more than one.
        UserError: a plugin does, cannot be imported, or has the name of something that exists.
    """
    known = (package.__name__, base, plugin_folders())
    if known not in _FOUND:
        _FOUND[known] = _scan(package, base)
    return _FOUND[known]


def _scan(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    home = Path(str(package.__file__)).parent
    package.__path__ = with_plugins([str(home)], package.__name__)
    importlib.invalidate_caches()
    found: dict[str, type[T]] = {}
    for name, file in sorted(_modules(package).items()):
        module = f"{package.__name__}.{name}"
        if not name.startswith("_") and module != base.__module__:
            found[name] = _only_class(module, base) if file.parent == home else _only_plugin_class(module, base, file)
    _check_classes(package, found)
    return found


def _modules(package: ModuleType) -> dict[str, Path]:
    """File of every module by name."""
    found: dict[str, Path] = {}
    for folder in package.__path__:
        for entry in iter_modules([folder]):
            file = Path(folder, entry.name if entry.ispkg else f"{entry.name}.py")
            if entry.name in found:
                raise UserError(f"{file}: there is a {entry.name!r} already, {found[entry.name]}; rename your file")
            if not entry.name.isidentifier():
                raise UserError(f"{file}: a file's name is used in commands; use letters, digits and _ only")
            found[entry.name] = file
    return found


def _only_plugin_class(module: str, base: type[T], file: Path) -> type[T]:
    """The class of a module that a user wrote; whatever is wrong with it is said in one line."""
    try:
        return _only_class(module, base)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}; mend the file") from error
    except Exception as error:
        kind = "" if isinstance(error, (UserError, WrongNumber)) else f"{type(error).__name__}: "
        raise UserError(f"{file}: {kind}{' '.join(str(error).split())}; mend the file") from error


def _only_class(module: str, base: type[T]) -> type[T]:
    classes = [
        value
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module
        and not value.__name__.startswith("_")
    ]
    if len(classes) != 1:
        names = ", ".join(value.__name__ for value in classes) or "none"
        raise WrongNumber(f"{module} must define exactly one {base.__name__}, found {names}")
    return classes[0]


def _check_classes(package: ModuleType, found: dict[str, type[T]]) -> None:
    """Classes are public under their own names, so these differ as well."""
    by_class: dict[str, str] = {}
    for name, cls in found.items():
        other = by_class.setdefault(cls.__name__, name)
        if other != name:
            raise UserError(f"{package.__name__}: {other} and {name} both define {cls.__name__}; rename yours")


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
