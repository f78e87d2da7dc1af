"""``python train.py`` behind its command line: from a checked configuration to data, engine, reports and a verdict."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lit_simignore.command import is_main_process
from lit_simignore.config import folders
from lit_simignore.config.schema import Source, TrainConfig
from lit_simignore.config.training import Training
from lit_simignore.config.typed import ConfigError, plain
from lit_simignore.loading import load_model

if TYPE_CHECKING:
    from lit_simignore.data.conversations import Conversation
    from lit_simignore.engine.finetune import FinetuneSettings


def finetune_from(asked: Training) -> None:
    """Everything that ``python train.py`` does: train, answer before and after, say what training brought back."""
    from lit_simignore.engine.atomic import write_text
    from lit_simignore.engine.finetune import AFTER, BEFORE, Evaluations, finetune
    from lit_simignore.engine.finetune_verdict import verdict
    from lit_simignore.report.html import write_report
    from lit_simignore.report.table import render_table
    from lit_simignore.tracking import build_logger, check_logger

    config, run_dir = asked.config, asked.run_dir
    check_logger(config.logger.name)
    if config.trainer.devices_per_replica > 1:
        raise ConfigError(
            "trainer.devices_per_replica",
            f"expected 1 in training, got {config.trainer.devices_per_replica}; trainer.strategy=fsdp2 trains a model "
            "that is larger than one GPU",
        )
    conversations, identity = training_data(asked)
    outcome = Evaluations(
        asked.benchmark, asked.methods, config.outcome.before, config.outcome.after, validation=asked.validation
    )
    wish = {name: value for name, value in plain(config.logger).items() if name != "max_rows"}
    found = finetune(
        lambda: load_model(config.model),
        conversations,
        asked.pruning,
        run_dir,
        finetune_settings(asked),
        outcome,
        data_identity=identity,
        logger=lambda: build_logger(wish.pop("name"), run_dir, run_id=str(run_dir.resolve()), **wish),
    )
    if not is_main_process():
        return
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(asked.resolved)))
    for when in (BEFORE, AFTER):
        if found[when] is not None:
            report = write_report(run_dir / when)
            print(f"\n{when.upper()} TRAINING\n", render_table(found[when]), f"report: {report}", sep="\n")
    pruned = [method.name for method in asked.methods if method.parts]
    if pruned and found[BEFORE] is not None and found[AFTER] is not None and not asked.methods[0].parts:
        print(*(f"\n{verdict(run_dir, name)}" for name in pruned), sep="\n")
    if found["dropped"]:
        print(f"\n{found['dropped']} conversations were too long and left out.")
    if "validation" in found:
        print(
            f"\nThe weights are those of step {found['step']}, the best validation "
            f"({100 * found['validation']:.1f} %); the training ended at step {found['last_step']}."
        )
    print(f"\ntrained: {found['folder']}", f"python eval.py {_again(config, found['folder'])}", sep="\n")


def _again(config: TrainConfig, folder: str) -> str:
    """What evaluates the trained model by itself."""
    if Path(folder).name == "model":
        return f"model={folder}"
    name = config.model.name if config.model.name in folders.options("model") else config.model.path
    return f"model={name} model.adapter={folder}"


def training_data(asked: Training) -> tuple[Sequence[Conversation], dict[str, Any]]:
    """The conversations that are learned from, all checked, and plain data that changes with them.

    Raises:
        UserError: names file, record and fault.
    """
    from lit_simignore.data.conversations import conversation_of
    from lit_simignore.data.conversations_files import files_digest, read_conversations
    from lit_simignore.data.conversations_shapes import ShapesConversations

    wish = asked.config.data
    if wish.source is Source.SHAPES:
        scenes = wish.scenes if wish.limit is None else min(wish.scenes, wish.limit)
        return ShapesConversations(scenes, asked.config.seed), {"source": "shapes", "seed": asked.config.seed}
    if asked.source is not None:
        found = [conversation_of(sample) for sample in asked.source.load()[: wish.limit]]
        return found, {"source": "benchmark", **plain(asked.source.identity())}
    assert wish.path is not None
    found = read_conversations(
        wish.path,
        image_folder=wish.images,
        split=wish.split,
        revision=wish.revision,
        limit=wish.limit,
        check_images=wish.check_images,
    )
    return found, {"source": "conversations", "content": files_digest(wish.path, wish.split, wish.revision)}


def finetune_settings(asked: Training) -> FinetuneSettings:
    """The engine's settings from the configuration."""
    from lit_simignore.engine.finetune import FinetuneSettings
    from lit_simignore.engine.finetune_schedule import PruneSchedule
    from lit_simignore.engine.finetune_tuning import Tuning
    from lit_simignore.engine.finetuner import Optimization
    from lit_simignore.engine.settings import EvaluationSettings

    config, trainer = asked.config, plain(asked.config.trainer)
    training, tuning = plain(config.training), plain(config.tuning)
    moves = {name: training.pop(name) for name in ("lr", "warmup_ratio", "weight_decay")}
    run = EvaluationSettings(
        **{name: value for name, value in trainer.items() if name != "name"},
        model_name=config.model.name,
        benchmark_name=config.benchmark["name"],
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        seed=config.seed,
        overwrite=config.overwrite,
        efficiency=None,
    )
    return FinetuneSettings(
        **training,
        padding_side=config.data.padding_side.value,
        max_tokens=config.data.max_tokens,
        too_long=config.data.too_long.value,
        seed=config.seed,
        tuning=Tuning(**{**tuning, "targets": tuple(tuning["targets"])}),
        optimization=Optimization(**moves),
        schedule=PruneSchedule(**plain(config.schedule)),
        checkpoint_every=config.checkpoint.every,
        validate_every=config.validation.every,
        validation_samples=config.validation.samples,
        patience=config.validation.patience,
        whole_model=config.checkpoint.whole_model,
        run=run,
    )
