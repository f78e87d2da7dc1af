"""Imports go downwards only, and the mathematics knows no framework. Read from the source: nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lit_simignore"

LAYERS = (
    ("types",),
    ("plugins", "shapes"),
    ("discovery",),
    ("pruning", "interventions", "attribution", "metrics"),
    ("benchmarks", "surgery"),
    ("data", "tracking"),
    ("engine", "report", "pico"),
    ("config",),
    ("command",),
    ("loading",),
    ("finetuning",),
    ("cli", "explore"),
    ("sweep",),
)
"""Lowest first. A module may import from layers below its own and from its own package; neighbours are strangers."""

HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}

NARROWER = {"config": {"types", "plugins", "discovery", "pruning", "interventions", "benchmarks"}}
"""Packages that may see less than everything below them: settings know neither model nor engine."""

PURE = ("pruning", "interventions", "attribution", "metrics")
FRAMEWORKS = {"transformers", "datasets", "wandb", "lightning", "pytorch_lightning", "peft", "omegaconf"}


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Dotted names of everything that ``tree`` imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.rsplit(".", node.level)[0] + "." if node.level else ""
            base = parent + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def sources() -> list[tuple[str, Path]]:
    """Dotted name and file of every module below the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append((".".join(parts), path))
    return found


def part_of(module: str) -> str | None:
    """``lit_simignore.pruning.base`` -> ``pruning``; ``None`` outside the package and for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE.name and len(parts) > 1 and parts[1] != "__init__" else None


def violations(module: str, source: str) -> list[str]:
    """What ``module`` imports and must not."""
    own = part_of(module)
    if own is None:
        return []
    allowed = NARROWER.get(own, {name for name in HEIGHT if HEIGHT[name] < HEIGHT[own]}) | {own}
    found = set()
    for name in imported(ast.parse(source), module):
        part, top = part_of(name), name.split(".")[0]
        if part is not None and part in HEIGHT and part not in allowed:
            found.add(f"{module} imports {part}")
        if own in PURE and top in FRAMEWORKS:
            found.add(f"{module} imports {top}")
        if top == "experiments" or name == PACKAGE.name:
            found.add(f"{module} imports {name}")
    return sorted(found)


def test_every_part_of_the_package_has_its_layer() -> None:
    parts = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert parts - {"__init__", "__pycache__", "assets"} <= set(HEIGHT)


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_downwards_only(module: str, path: Path) -> None:
    assert violations(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lit_simignore.pruning.x", "import transformers"),
        ("lit_simignore.metrics.x", "def f():\n    from lightning.pytorch import Trainer"),
        ("lit_simignore.pruning.x", "from lit_simignore.surgery import attach"),
        ("lit_simignore.pruning.x", "from ..metrics import flops"),
        ("lit_simignore.benchmarks.x", "import lit_simignore.surgery.load"),
        ("lit_simignore.report.x", "from lit_simignore.engine.store import Store"),
        ("lit_simignore.config.x", "from lit_simignore.engine import evaluate"),
        ("lit_simignore.engine.x", "from lit_simignore.config.schema import EvalConfig"),
        ("lit_simignore.types", "from lit_simignore.discovery import pick"),
        ("lit_simignore.explore.x", "from lit_simignore.cli import eval_main"),
        ("lit_simignore.report.x", "from lit_simignore.explore import page"),
        ("lit_simignore.cli", "from lit_simignore.sweep.ledger import Ledger"),
        ("lit_simignore.engine.x", "import lit_simignore"),
        ("lit_simignore.engine.x", "from lit_simignore import pruning, cli"),
        ("lit_simignore.engine.x", "import experiments.pico"),
    ],
)
def test_an_import_upwards_or_sideways_is_noticed(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lit_simignore.pruning.x", "from .base import Pruner\nimport torch"),
        ("lit_simignore.surgery.x", "from lit_simignore.surgery.families.base import Family\nimport transformers"),
        ("lit_simignore.cli", "from lit_simignore.engine import evaluate"),
        ("lit_simignore.config.x", "from lit_simignore.benchmarks import BENCHMARKS"),
    ],
)
def test_an_import_downwards_is_allowed(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_entry_points_only_hand_over() -> None:
    for name in ("eval.py", "train.py"):
        source = (ROOT / name).read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 30
        assert set(imported(ast.parse(source), name)) <= {
            "sys", "lit_simignore.cli", "lit_simignore.cli.eval_main", "lit_simignore.cli.train_main",
        }
