"""Jobs are read by the program's own configuration before the first one starts: a typing error costs a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_simignore.config.typed import ConfigError

MOST_CHECKED = 64


def check_jobs(program: str, jobs: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Compose what each job asks for; nothing heavy is loaded.

    Args:
        program: ``eval.py`` or ``train.py``.
        jobs: name and arguments; the first :data:`MOST_CHECKED` are read.

    Raises:
        ConfigError: the program would refuse a job; named by it.
    """
    for number, (name, arguments) in enumerate(jobs):
        if number == MOST_CHECKED:
            return
        try:
            _compose(program, arguments)
        except ConfigError as error:
            raise ConfigError("", f"job {name}: {error}") from error


def _compose(program: str, arguments: Sequence[str]) -> None:
    if program == "eval.py":
        from lit_simignore.config.evaluation import compose_evaluation

        compose_evaluation(arguments)
        return
    from lit_simignore.cli import TrainKeys
    from lit_simignore.config.training import compose_training, resolve_training

    config, layers = compose_training(TrainKeys, arguments)
    if config.task == "finetune":
        resolve_training(config, layers)
