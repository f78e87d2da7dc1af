"""The two commands: typed configuration -> objects -> engine -> report. Heavy imports wait until they are needed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.command import FLAGS, is_main_process, run_command
from lit_simignore.config.evaluation import Evaluation, compose_evaluation
from lit_simignore.config.help import render_help
from lit_simignore.config.schema import Analysis, EvalConfig, Quantization, TrainConfig
from lit_simignore.config.training import compose_training, resolve_training
from lit_simignore.config.typed import ConfigError, plain
from lit_simignore.discovery import nearest
from lit_simignore.finetuning import finetune_from
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.loading import load_model
from lit_simignore.pico.config import PicoConfig
from lit_simignore.pruning import PRUNERS
from lit_simignore.types import UserError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from lit_simignore.engine.settings import EvaluationSettings
    from lit_simignore.engine.stream import Stream

_EVAL_USAGE = f"""\
Evaluate methods on one model and one benchmark, all on the same samples.

  python eval.py
  python eval.py model=llava-1.5-7b benchmark=scienceqa methods=[baseline,simignore] trainer.devices=8 logger=wandb
  python eval.py methods=[baseline,simignore@num_keep=64] method.simignore.text=question budgets=[36,72]
  python eval.py methods=[baseline,fastv,random] budget=layer_mean:72
  python eval.py compare=[runs/a:simignore,runs/b:simignore]

Running the same command again continues it. Quote brackets where your shell expands them.

{FLAGS}"""

_TRAIN_USAGE = f"""\
Fine-tune a model with pruning switched on, and show what training brought back of what pruning took.

  python train.py
  python train.py pruning=random@keep_ratio=0.25 tuning.kind=full training.steps=300
  python train.py pruning=simignore@keep_ratio=0.12 schedule.kind=annealed
  python train.py data.source=conversations data.path=chats.json model=llava-1.5-7b trainer.devices=8
  python train.py experiment=llava-1.5-7b-scienceqa
  python train.py experiment=pico                     the bundled model, from scratch

Running the same command again continues it. Quote brackets where your shell expands them.

{FLAGS}"""


TASKS = ("finetune", "pico")


@dataclass(kw_only=True)
class TrainKeys(TrainConfig):
    """Fine-tune a model with pruning switched on, or train the bundled one from scratch.

    Args:
        pico: with task=pico, the recipe of the bundled model.
    """

    pico: PicoConfig = field(default_factory=PicoConfig)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """``python eval.py``.

    Args:
        argv: what stands behind the program's name; by default that of this process.

    Returns:
        The exit code: 0, 1 failure, 2 bad configuration, 130 interrupted, 143 terminated.
    """
    return run_command(sys.argv[1:] if argv is None else argv, _eval, _eval_help)


def train_main(argv: Sequence[str] | None = None) -> int:
    """``python train.py``: returns the exit code, as :func:`eval_main` does."""
    return run_command(sys.argv[1:] if argv is None else argv, _train, _train_help)


def _eval(assignments: Sequence[str], only_config: bool) -> None:
    asked = compose_evaluation(assignments)
    if only_config:
        print(to_yaml(asked.resolved), end="")
    elif asked.config.compare:
        _compare(*asked.config.compare)
    else:
        _evaluate(asked)


def _evaluate(asked: Evaluation) -> None:
    from lit_simignore.engine.evaluate import evaluate
    from lit_simignore.report.html import write_report
    from lit_simignore.report.table import render_table
    from lit_simignore.tracking import check_logger

    check_logger(asked.config.logger.name)
    settings = evaluation_settings(asked)
    model, processor = _load(asked, settings)
    if asked.config.overwrite or not (asked.run_dir / "manifest.json").exists():
        _save_config(asked)  # so that a killed run can be understood; not over that of another run, which is refused
    stream = _stream(asked)
    observers = [] if stream is None else [stream]
    summary = evaluate(model, processor, asked.benchmark, asked.methods, asked.run_dir, settings, observers)
    _save_config(asked)
    if is_main_process():
        if asked.config.analysis is Analysis.FLOW:
            _look_at_flow(asked, model, processor, settings)
        report = write_report(asked.run_dir)
        print(render_table(summary), f"report: {report}", sep="\n\n")
        _log(asked, summary, stream)


def _load(asked: Evaluation, settings: EvaluationSettings) -> tuple[Any, Any]:
    """The model, where this process wants it; what cannot go together is refused before it is loaded."""
    from lit_simignore.engine.lockstep import check_lockstep, is_lockstep
    from lit_simignore.engine.replicas import check_placed, check_replicas, replica_options

    wish = asked.config.model
    check_lockstep(settings)
    check_replicas(settings, device_map=wish.device_map, quantized=wish.quantization is not Quantization.NONE)
    if is_lockstep(settings) and (asked.config.analysis is Analysis.FLOW or wish.device_map is not None):
        key, value = ("analysis", "flow") if wish.device_map is None else ("model.device_map", wish.device_map)
        raise ConfigError(key, f"no process has the whole model under trainer.strategy=fsdp2; leave out {value}")
    model, processor = load_model(wish, **replica_options(settings))
    check_placed(model, settings)
    return model, processor


def _look_at_flow(asked: Evaluation, model: Any, processor: Any, settings: EvaluationSettings) -> None:
    from lit_simignore.engine.flow import FlowPlan, analyse_flow

    wish = plain(asked.config.flow)
    plan = FlowPlan(**{**wish, "layers": tuple(wish["layers"]), "methods": tuple(wish["methods"])})
    analyse_flow(model, processor, asked.benchmark, asked.run_dir, plan, settings)


def _stream(asked: Evaluation) -> Stream | None:
    """Shows the run elsewhere while it goes on, if that is wanted; one for all processes, in the first."""
    from lit_simignore.engine.stream import Stream
    from lit_simignore.tracking import build_logger

    wish = plain(asked.config.logger)
    name, _ = wish.pop("name"), wish.pop("max_rows")
    if name == "none" or not is_main_process():
        return None
    build = partial(build_logger, name, asked.run_dir, run_id=str(asked.run_dir.resolve()), **wish)
    return Stream(build, asked.run_dir)


def _log(asked: Evaluation, summary: Mapping[str, Any], stream: Stream | None) -> None:
    """Show the finished run elsewhere too. The folder and the report are already written and do not depend on it."""
    from lit_simignore.engine.sample_table import sample_rows
    from lit_simignore.tracking import log_summary

    if stream is None:
        return
    figures, names = _figures(asked), [row["name"] for row in summary["methods"]]

    def last(logger: Logger) -> None:
        rows = sample_rows(asked.run_dir, names, asked.config.logger.max_rows)
        log_summary(logger, summary, figures, samples=rows, config=asked.resolved)

    done = stream.close(last)
    print(f"logged: {asked.config.logger.name}" if done else f"not logged: {asked.config.logger.name} did not take it")


def _figures(asked: Evaluation) -> dict[str, str]:
    """The figures of an analysis that was asked for, as SVG."""
    from lit_simignore.report.flow_folder import read_flow
    from lit_simignore.report.flow_section import flow_figures

    view = read_flow(asked.run_dir) if asked.config.analysis is Analysis.FLOW else None
    return {} if view is None else {f"flow-{name}": str(drawn) for name, (_, drawn) in flow_figures(view).items()}


def evaluation_settings(asked: Evaluation) -> EvaluationSettings:
    """The engine's settings from the configuration."""
    from lit_simignore.engine.evaluate import EvaluationSettings, TimingPlan

    trainer = plain(asked.config.trainer)
    return EvaluationSettings(
        **{name: value for name, value in trainer.items() if name != "name"},
        model_name=asked.config.model.name,
        benchmark_name=asked.config.benchmark["name"],
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        seed=asked.config.seed,
        overwrite=asked.config.overwrite,
        report_samples=asked.config.report.samples,
        efficiency=TimingPlan(**plain(asked.config.efficiency)) if asked.config.efficiency.samples else None,
    )


def _save_config(asked: Evaluation) -> None:
    from lit_simignore.engine.atomic import write_text

    if is_main_process():
        write_text(asked.run_dir / "config.yaml", to_yaml(asked.resolved))


def _compare(run_a: str, run_b: str) -> None:
    from lit_simignore.metrics.compare import compare

    (folder_a, method_a), (folder_b, method_b) = _run_and_method(run_a), _run_and_method(run_b)
    try:
        print(compare(folder_a, folder_b, method_a, method_b))
    except UserError as error:
        raise UserError(f"{error} (compare=[FOLDER:METHOD,FOLDER:METHOD] names the methods)") from error


def _train(assignments: Sequence[str], only_config: bool) -> None:
    config, layers = compose_training(TrainKeys, assignments)
    if config.task not in TASKS:
        raise ConfigError("task", f"unknown task {config.task!r}; {nearest(config.task, TASKS)}")
    if config.task == "pico":
        _train_pico(config, only_config)
        return
    asked = resolve_training(config, layers)
    if only_config:
        print(to_yaml(asked.resolved), end="")
    else:
        finetune_from(asked)


def _train_pico(config: TrainKeys, only_config: bool) -> None:
    if only_config:
        print(to_yaml({"task": config.task, "pico": plain(config.pico)}), end="")
        return
    from lit_simignore.pico.train import train

    print(f"model: {train(config.pico)}")


def _run_and_method(text: str) -> tuple[str, str | None]:
    """Split at the first colon behind a folder: names of methods may contain colons, and so may paths."""
    if Path(text).exists() or ":" not in text:
        return text, None
    places = [place for place, letter in enumerate(text) if letter == ":"]
    place = next((place for place in places if Path(text[:place]).is_dir()), places[0])
    return text[:place], text[place + 1 :]


def _eval_help() -> str:
    parts: dict[str, Mapping[str, type]] = {
        "PRUNERS: fields of a method's parts, method.NAME.FIELD=value": PRUNERS(),
        "INTERVENTIONS: the same": INTERVENTIONS(),
        "BENCHMARKS: fields as benchmark.FIELD=value": BENCHMARKS(),
    }
    return render_help(EvalConfig, _EVAL_USAGE, parts)


def _train_help() -> str:
    parts: dict[str, Mapping[str, type]] = {
        "PRUNERS: fields of a method's parts, method.NAME.FIELD=value": PRUNERS(),
        "BENCHMARKS: fields as benchmark.FIELD=value": BENCHMARKS(),
    }
    return render_help(TrainKeys, _TRAIN_USAGE, parts)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))
