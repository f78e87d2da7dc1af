"""One evaluation as configured: typed settings, the benchmark and the methods, and the plain mapping that is saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.config.adapters import with_trained_pruning
from lit_simignore.config.agent import agents_folder
from lit_simignore.config.budgets import asked_budgets
from lit_simignore.config.compose import read_layers, slug
from lit_simignore.config.methods import Definitions, build_methods, used_definitions
from lit_simignore.config.schema import EvalConfig
from lit_simignore.config.typed import ConfigError, build, plain, refuse_in_one_line
from lit_simignore.discovery import nearest
from lit_simignore.types import Method

_NOT_SAVED = ("experiment", "overwrite", "compare")


@dataclass(frozen=True)
class Evaluation:
    """Everything that the command line asked for, checked, before anything heavy is loaded.

    Args:
        config: typed settings.
        benchmark: the questions; nothing is loaded yet.
        methods: at least one, the untouched model first.
        resolved: plain mapping for ``config.yaml``: as an ``experiment=`` it gives the same run again.
        run_dir: the run folder.
    """

    config: EvalConfig
    benchmark: Benchmark
    methods: list[Method]
    resolved: dict[str, Any]
    run_dir: Path


def compose_evaluation(assignments: Sequence[str]) -> Evaluation:
    """Read, merge and check everything that ``key=value`` assignments ask for.

    Raises:
        ConfigError: one line on the first thing that is wrong.
    """
    layers = with_trained_pruning(read_layers(EvalConfig, assignments))
    with layers.blame():
        config = build(EvalConfig, layers.merged())
        _check(config)
        benchmark = build_benchmark(config.benchmark)
        definitions = Definitions(layers.each("method"), config.budget_definition)
        methods = build_methods(config.methods, asked_budgets(config), definitions)
        _check_shown(config.flow.methods, [method.name for method in methods])
        resolved = {name: value for name, value in plain(config).items() if name not in _NOT_SAVED}
        resolved["benchmark"] = {"name": config.benchmark["name"], **plain(benchmark)}
        resolved["method"] = used_definitions(config.methods, definitions)
        data = refuse_in_one_line("benchmark", benchmark.identity)
        run_dir = Path(config.run.dir) / (config.run.name or agents_folder() or _default_name(resolved, data))
    return Evaluation(config, benchmark, methods, resolved, run_dir)


def build_benchmark(section: Mapping[str, Any]) -> Benchmark:
    """The scanned benchmark called ``section["name"]``, with the rest of ``section`` as its fields."""
    name, found = str(section["name"]), BENCHMARKS()
    if name not in found:
        raise ConfigError("benchmark", f"unknown benchmark {name!r}; {nearest(name, found)}")
    return build(found[name], {key: value for key, value in section.items() if key != "name"}, "benchmark")


def _default_name(resolved: Mapping[str, Any], data: Mapping[str, object]) -> str:
    """Changes with the model, the data and the decoding, and with nothing else: other methods join the same run."""
    model, benchmark, trainer = resolved["model"], resolved["benchmark"], resolved["trainer"]
    identity = {
        "model": {key: value for key, value in model.items() if key not in ("device_map", "trust_remote_code")},
        "benchmark": benchmark,
        "data": plain(data),
        "decoding": [trainer["max_new_tokens"], trainer["precision"]],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug(model['name'])}-{benchmark['name']}-{digest}"


def _check(config: EvalConfig) -> None:
    """What a type cannot say."""
    name = config.run.name
    if name is not None and slug(name) != name:
        raise ConfigError("run.name", f"expected letters, digits, '.', '_' and '-', got {name!r}; run.dir takes a path")
    if config.compare and len(config.compare) != 2:
        raise ConfigError("compare", f"expected two runs, got {len(config.compare)}; write compare=[runs/a,runs/b]")
    size = config.trainer.batch_size
    if isinstance(size, str) and size != "auto":
        raise ConfigError("trainer.batch_size", f"expected a number or auto, got {size!r}")
    for key, value, least in (
        ("trainer.batch_size", size if isinstance(size, int) else None, 1),
        ("trainer.num_workers", config.trainer.num_workers, 0),
        ("trainer.num_nodes", config.trainer.num_nodes, 1),
        ("trainer.devices_per_replica", config.trainer.devices_per_replica, 1),
        ("trainer.max_new_tokens", config.trainer.max_new_tokens, 1),
        ("report.samples", config.report.samples, 0),
        ("logger.max_rows", config.logger.max_rows, 0),
        ("efficiency.samples", config.efficiency.samples, 0),
        ("efficiency.batch_size", config.efficiency.batch_size, 1),
        ("efficiency.repeats", config.efficiency.repeats, 1),
        ("efficiency.decode_tokens", config.efficiency.decode_tokens, 1),
        ("flow.samples", config.flow.samples, 1),
        ("flow.shown", config.flow.shown, 0),
        ("flow.truncation", config.flow.truncation, 0),
        ("flow.tolerance", config.flow.tolerance, 0),
        ("flow.clusters", config.flow.clusters, 0),
        ("flow.smooth", config.flow.smooth, 0),
        ("flow.sigma", config.flow.sigma, 0),
        ("flow.batch_size", config.flow.batch_size, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(key, f"expected at least {least}, got {value}")


def _check_shown(shown: Sequence[str], names: Sequence[str]) -> None:
    for name in shown:
        if name not in names:
            raise ConfigError("flow.methods", f"{name!r} is not among the methods; {nearest(name, names)}")
