"""What stands behind ``python -m lit_simignore.sweep``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from lit_simignore.config.compose import split
from lit_simignore.config.typed import ConfigError
from lit_simignore.sweep.definition import Sweep, refuse_ours


@dataclass(frozen=True)
class Options:
    """The command line, checked.

    Args:
        file: the sweep file; ``None`` with ``summary``.
        assignments: ``key=value`` given to every job, stronger than the file's.
        workers: jobs at a time; ``None`` takes one per GPU.
        gpus_per_job: GPUs that each job sees.
        count: jobs at most.
        seed: of random values.
        name: of the sweep's folder; ``None`` takes the file's.
        dir: where that folder is.
        retry: run failed jobs again.
        summary: a sweep's folder to draw again; nothing is run.
    """

    file: str | None
    assignments: tuple[str, ...]
    workers: int | None
    gpus_per_job: int
    count: int | None
    seed: int
    name: str | None
    dir: str
    retry: bool
    summary: str | None


def read_options(argv: Sequence[str]) -> Options:
    """Parse the command line.

    Raises:
        ConfigError: one line on what is wrong.
    """
    found = _parser().parse_intermixed_args(list(argv))
    words = list(found.words)
    file = words.pop(0) if words and "=" not in words[0] else None
    if (file is None) == (found.summary is None):
        raise ConfigError("", "expected a sweep file, or --summary and the folder of a sweep; --help shows both")
    for word in words:
        refuse_ours(split(word)[0])
    for key in ("workers", "gpus_per_job", "count"):
        value = getattr(found, key)
        if value is not None and value < 1:
            raise ConfigError(f"--{key.replace('_', '-')}", f"expected at least 1, got {value}")
    others = {key: getattr(found, key) for key in Options.__dataclass_fields__ if key not in ("file", "assignments")}
    return Options(file=file, assignments=tuple(words), **others)


def refuse_swept(sweep: Sweep, assignments: Sequence[str]) -> None:
    """Refuse to set what the sweep varies: every job would be the same.

    Raises:
        ConfigError: names the key.
    """
    for assignment in assignments:
        key = split(assignment)[0]
        if key in sweep.parameters and not sweep.parameters[key].fixed:
            raise ConfigError(key, "the sweep varies it; change the file, or leave it out here")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--gpus-per-job", type=int, default=1)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name")
    parser.add_argument("--dir", default="runs")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--summary")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError("", f"{message}; --help lists the options")
