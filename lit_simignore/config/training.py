"""One training as configured: typed settings, methods and benchmarks, and the plain mapping that is saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.config.agent import agents_folder
from lit_simignore.config.compose import Layers, compose, slug
from lit_simignore.config.evaluation import build_benchmark
from lit_simignore.config.methods import Definitions, build_methods, used_definitions
from lit_simignore.config.schema import Source, TrainConfig
from lit_simignore.config.typed import ConfigError, hints, plain
from lit_simignore.types import Method

ConfigT = TypeVar("ConfigT", bound=TrainConfig)

_NOT_SAVED = ("experiment", "overwrite", "pico")
_BASELINE = "baseline"


@dataclass(frozen=True)
class Training:
    """Everything that the command line asked for, checked, before anything heavy is loaded.

    Args:
        config: typed settings.
        pruning: what prunes while training.
        methods: what is evaluated, the untouched model first.
        benchmark: the held-out questions; nothing is loaded yet.
        validation: where validation samples come from; ``None`` without validation.
        source: the benchmark that is learned from, if one is.
        resolved: plain mapping for ``config.yaml``: as an ``experiment=`` it gives the same run again.
        run_dir: the run folder.
    """

    config: TrainConfig
    pruning: Method
    methods: tuple[Method, ...]
    benchmark: Benchmark
    validation: Benchmark | None
    source: Benchmark | None
    resolved: dict[str, Any]
    run_dir: Path


def compose_training(schema: type[ConfigT], assignments: Sequence[str]) -> tuple[ConfigT, Layers]:
    """Read and type all layers; :func:`resolve_training` checks what a fine-tuning needs.

    Raises:
        ConfigError: one line on the first thing that is wrong.
    """
    return compose(schema, assignments)


def resolve_training(config: TrainConfig, layers: Layers) -> Training:
    """Build and check everything that a fine-tuning is made of.

    Raises:
        ConfigError: one line on the first thing that is wrong.
    """
    with layers.blame():
        _check(config)
        definitions = Definitions(layers.each("method"))
        asked = config.outcome.methods or list(dict.fromkeys([_BASELINE, config.pruning]))
        pruning = build_methods([config.pruning], (), definitions)[0]
        methods = tuple(build_methods(asked, (), definitions))
        benchmark = build_benchmark(config.benchmark)
        source = build_benchmark(config.data.benchmark) if config.data.source is Source.BENCHMARK else None
        validation = _validation(config) if config.validation.every else None
    resolved = {name: value for name, value in plain(config).items() if name not in _NOT_SAVED}
    resolved["method"] = used_definitions(sorted({config.pruning, *asked}), definitions)
    resolved["benchmark"] = {"name": config.benchmark["name"], **plain(benchmark)}
    if source is not None:
        resolved["data"]["benchmark"] = {"name": config.data.benchmark["name"], **plain(source)}
    run_dir = Path(config.run.dir) / (config.run.name or agents_folder() or _default_name(resolved))
    return Training(config, pruning, methods, benchmark, validation, source, resolved, run_dir)


def _validation(config: TrainConfig) -> Benchmark:
    """The benchmark with other samples: what the configuration says, or the next seed of one that is drawn."""
    section, said = dict(config.benchmark), dict(config.validation.benchmark)
    cls = BENCHMARKS().get(str(section["name"]))
    if not said and cls is not None and "seed" in hints(cls):
        said = {"seed": int(section.get("seed", getattr(cls, "seed", 0))) + 1}
    if not said:
        raise ConfigError(
            "validation.benchmark", "expected what makes the validation differ from the test, such as split=val"
        )
    return build_benchmark({**section, **said})


def _check(config: TrainConfig) -> None:
    """What a type cannot say."""
    name = config.run.name
    if name is not None and slug(name) != name:
        raise ConfigError("run.name", f"expected letters, digits, '.', '_' and '-', got {name!r}; run.dir takes a path")
    if config.data.source is Source.CONVERSATIONS and not config.data.path:
        raise ConfigError("data.path", "expected a file of conversations or a hub id owner/dataset; got null")
    if config.data.source is Source.BENCHMARK and "name" not in config.data.benchmark:
        raise ConfigError("data.benchmark", "expected the name of a benchmark to learn from, data.benchmark.name=...")
    if config.data.source is Source.BENCHMARK and config.data.benchmark == config.benchmark:
        raise ConfigError("data.benchmark", "this would train on the test; give it another split or seed")
    if config.validation.patience is not None and not config.validation.every:
        raise ConfigError("validation.patience", "it counts validations; set validation.every as well")
    ema = config.training.ema
    if ema is not None and not 0 < ema < 1:
        raise ConfigError("training.ema", f"expected a share between 0 and 1, such as 0.99; got {ema}")
    for key, value, least in (
        ("training.steps", config.training.steps, 1),
        ("training.batch_size", config.training.batch_size, 1),
        ("training.micro_batch_size", config.training.micro_batch_size, 1),
        ("data.limit", config.data.limit, 1),
        ("data.scenes", config.data.scenes, 1),
        ("data.max_tokens", config.data.max_tokens, 1),
        ("validation.every", config.validation.every, 0),
        ("validation.samples", config.validation.samples, 1),
        ("validation.patience", config.validation.patience, 1),
        ("checkpoint.every", config.checkpoint.every, 1),
        ("trainer.num_workers", config.trainer.num_workers, 0),
        ("trainer.num_nodes", config.trainer.num_nodes, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(key, f"expected at least {least}, got {value}")


def _default_name(resolved: Mapping[str, Any]) -> str:
    """Changes with everything that the trained weights depend on, and with what is evaluated."""
    ignored = ("trainer", "logger", "run")
    identity = {key: value for key, value in resolved.items() if key not in ignored}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"finetune-{slug(resolved['model']['name'])}-{digest}"
