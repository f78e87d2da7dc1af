"""``import lit_simignore as ls``: every public name resolves, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import lit_simignore as ls
from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.pruning import PRUNERS


@pytest.mark.parametrize("name", ls.__all__)
def test_every_public_name_resolves(name: str) -> None:
    home = ls._HOME.get(name)
    if home and importlib.util.find_spec(f"lit_simignore.{home}") is None:
        pytest.skip(f"lit_simignore.{home} is not written yet")
    assert getattr(ls, name).__name__ == name
    assert name in dir(ls)


def test_every_scanned_class_is_public_under_its_name() -> None:
    for registry in (PRUNERS(), INTERVENTIONS(), BENCHMARKS()):
        for cls in registry.values():
            assert getattr(ls, cls.__name__) is cls


def test_the_list_for_type_checkers_is_the_public_one() -> None:
    tree = ast.parse(Path(ls.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    listed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert listed == set(ls.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = ls.Nothing


def test_neither_the_package_nor_its_help_imports_a_framework() -> None:
    heavy = "sorted({'transformers', 'lightning', 'wandb', 'datasets'} & set(sys.modules))"
    code = f"import sys, lit_simignore.cli as cli; cli.eval_main(['--help']); cli.eval_main(['--cfg']); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, lit_simignore; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )
    assert bare.stdout.strip() == "False"
