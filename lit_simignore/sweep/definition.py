"""A sweep file as W&B takes it, read and checked: what is run, over which parameters, and how they are chosen.

The file is data. It can run this project's ``eval.py`` and ``train.py`` and nothing else, and its values reach them as
arguments, never through a shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_simignore.config.compose import CODE_KEY, slug, split
from lit_simignore.config.typed import ConfigError
from lit_simignore.discovery import nearest
from lit_simignore.sweep.distributions import Parameter, read_parameter

PROGRAMS = ("eval.py", "train.py")
METHODS = ("grid", "random", "bayes")
_KEYS = (
    "program", "method", "parameters", "metric", "command", "name", "project", "entity", "description", "run_cap",
    "early_terminate",
)  # fmt: skip
_ARGS = {"${args}": "--", "${args_no_hyphens}": ""}
_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
_OURS = {
    CODE_KEY: "it names code, which no file may: give it on the command line",
    "run.dir": "every job gets a run folder of its own",
    "run.name": "every job gets a run folder of its own",
    "overwrite": "a job that was killed is continued",
    "compare": "nothing would be run",
}
"""Keys that a sweep cannot set, and why."""


@dataclass(frozen=True)
class Metric:
    """What a search by results goes for."""

    name: str
    maximize: bool = False


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file.

    Args:
        name: of the folder that the jobs' run folders are in.
        program: ``eval.py`` or ``train.py``.
        method: ``grid``, ``random`` or ``bayes``.
        parameters: by dotted key, in the file's order.
        literals: assignments that the file's command gives to every job.
        dashes: what stands before every ``key=value``.
        metric: what ``bayes`` goes for.
        stops_early: whether the file asks for early termination, which needs W&B's server.
        run_cap: most jobs.
    """

    name: str
    program: str
    method: str
    parameters: Mapping[str, Parameter]
    literals: tuple[str, ...] = ()
    dashes: str = ""
    metric: Metric | None = None
    stops_early: bool = False
    run_cap: int | None = None

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """What stands behind the program's name for one choice of values, as W&B's agent writes it."""
        return [*self.literals, *(f"{self.dashes}{key}={value}" for key, value in values.items())]


def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep file.

    Raises:
        ConfigError: one line on the first thing that is wrong, with the file's name.
    """
    path = Path(path)
    try:
        # Not OmegaConf: ${env} is W&B's, and no reference to another key.
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError("", f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    try:
        return _sweep(read, path.parent.name if path.stem == "sweep" else path.stem)
    except ConfigError as error:
        raise ConfigError("", f"{error} (in {path})") from error


def _sweep(read: object, usual_name: str) -> Sweep:
    if not isinstance(read, Mapping):
        raise ConfigError("", f"expected a mapping of keys to values, got a {type(read).__name__}")
    for key in read:
        if key not in _KEYS:
            raise ConfigError(str(key), f"unknown key of a sweep; {nearest(str(key), _KEYS)}")
    program, method, name = str(read.get("program")), str(read.get("method")), str(read.get("name") or usual_name)
    if program not in PROGRAMS:
        raise ConfigError("program", f"a sweep runs {' or '.join(PROGRAMS)} of this project, got {program!r}")
    if method not in METHODS:
        raise ConfigError("method", f"unknown method {method!r}; {nearest(method, METHODS)}")
    literals, dashes = _command(read.get("command") or _COMMAND)
    return Sweep(
        name=slug(name),
        program=program,
        method=method,
        parameters=_parameters(read.get("parameters")),
        literals=literals,
        dashes=dashes,
        metric=_metric(read.get("metric")),
        stops_early=read.get("early_terminate") is not None,
        run_cap=_run_cap(read.get("run_cap")),
    )


def _parameters(section: object) -> dict[str, Parameter]:
    if not isinstance(section, Mapping) or not section:
        raise ConfigError("parameters", "expected at least one parameter with value, values or a distribution")
    for key in section:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(key)):  # W&B's own rule
            raise ConfigError("parameters", f"expected a dotted key as on the command line, got {key!r}")
        refuse_ours(str(key))
    return {str(key): read_parameter(str(key), value) for key, value in section.items()}


def refuse_ours(key: str) -> None:
    """Refuse a key that a sweep cannot set.

    Raises:
        ConfigError: it is one.
    """
    for ours, reason in _OURS.items():
        if key == ours or key.startswith(f"{ours}.") or ours.startswith(f"{key}."):
            raise ConfigError(key, f"cannot be part of a sweep: {reason}")


def _command(command: object) -> tuple[tuple[str, ...], str]:
    """The literal assignments and the dashes of a file's command.

    Raises:
        ConfigError: it is anything but this project's program with assignments behind it.
    """
    expected = f"expected {list(_COMMAND)} or the same with ${{args_no_hyphens}}"
    if not isinstance(command, Sequence) or isinstance(command, str):
        raise ConfigError("command", f"{expected}, got {command!r}")
    words = [str(word) for word in command]
    if "${program}" not in words:
        raise ConfigError("command", f"{expected}: a sweep runs nothing but its program; got {words}")
    place = words.index("${program}")
    if words[:place] not in ([], ["${interpreter}"], ["${env}", "${interpreter}"]):
        raise ConfigError("command", f"{expected}: nothing else may stand before the program; got {words}")
    behind = words[place + 1 :]
    args = [word for word in behind if word in _ARGS]
    if len(args) != 1:
        raise ConfigError("command", f"{expected}, with the parameters once; got {words}")
    literals = tuple(word for word in behind if word not in _ARGS)
    for word in literals:
        if "${" in word:
            raise ConfigError("command", f"{expected}; {word!r} is not filled in without W&B's agent")
        refuse_ours(split(word)[0])
    return literals, _ARGS[args[0]]


def _metric(section: object) -> Metric | None:
    if section is None:
        return None
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError("metric", f"expected {{name: ..., goal: maximize}}, got {section!r}")
    goal = section.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ConfigError("metric.goal", f"expected minimize or maximize, got {goal!r}")
    return Metric(section["name"], goal == "maximize")


def _run_cap(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError("run_cap", f"expected at least 1, got {value!r}")
    return value
