"""Python blocks that are not run: they compile, their imports exist, and calls of this package's names would bind."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from typing import Any


def broken_names(code: str) -> list[str]:
    """What in a block does not exist; raises ``SyntaxError`` where it does not compile."""
    tree = ast.parse(code)
    known: dict[str, Any] = {}
    found = [complaint for node in ast.walk(tree) for complaint in _imported(node, known)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_missing(node, known):
            found.append(f"{ast.unparse(node)} does not exist")
        if isinstance(node, ast.Call) and (complaint := _misfit(node, known)):
            found.append(complaint)
    return found


def _imported(node: ast.AST, known: dict[str, Any]) -> Iterator[str]:
    try:
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = importlib.import_module(alias.name)
                known[alias.asname or alias.name.split(".")[0]] = module
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                known[alias.asname or alias.name] = getattr(module, alias.name)
    except ImportError as error:
        yield str(error)


def _is_missing(node: ast.Attribute, known: dict[str, Any]) -> bool:
    home = _value(node.value, known)
    return inspect.ismodule(home) and not hasattr(home, node.attr)


def _value(node: ast.AST, known: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, known), node.attr, None)
    return None


def _misfit(node: ast.Call, known: dict[str, Any]) -> str | None:
    """Why the call would be refused before it does anything; other packages' calls are theirs to check."""
    called = _value(node.func, known)
    if called is None or not getattr(called, "__module__", "").startswith("lit_simignore"):
        return None
    if any(isinstance(value, ast.Starred) for value in node.args) or any(word.arg is None for word in node.keywords):
        return None
    try:
        inspect.signature(called).bind(*node.args, **{str(word.arg): word.value for word in node.keywords})
    except TypeError as error:
        return f"{ast.unparse(node)}: {error}"
    return None
