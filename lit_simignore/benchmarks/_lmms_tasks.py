"""Tasks of the installed lmms-eval: finding them by name, refusing what the loop cannot run, and loading one.

A task's YAML names functions (``!function``), so loading one runs code. Only YAML that is part of the installed package
or of a plugin folder is ever loaded: a configuration can choose among these by name and can name no file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lit_simignore.discovery import nearest
from lit_simignore.plugins import plugin_folders
from lit_simignore.types import UserError

PACKAGE = "lmms_eval"
PLUGIN_FOLDER = Path("benchmarks", "lmms_tasks")
"""Where tasks of a user's own lie below a plugin folder."""

_NAME = re.compile(rb"""^task:[ \t]*["']?([^\s"'#\[]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)
_MOST_INCLUDES = 8


class _Plain(yaml.SafeLoader):
    """Reads a task's YAML without running anything: functions and other tags become their text."""


def _as_text(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> str:
    return str(node.value)


_Plain.add_multi_constructor("", _as_text)


@dataclass(frozen=True)
class TaskFile:
    """One task as its YAML describes it; nothing of it has been run.

    Args:
        name: of the task.
        file: its YAML.
        settings: what stands there, with what it includes.
        digest: of the YAML, its includes, and the code beside them.
    """

    name: str
    file: Path
    settings: Mapping[str, Any]
    digest: str

    @property
    def generation(self) -> Mapping[str, Any]:
        """Settings of the generation."""
        return self.settings.get("generation_kwargs") or {}

    @property
    def split(self) -> str:
        """The split that is asked, as lmms-eval chooses it."""
        return str(self.settings.get("test_split") or self.settings.get("validation_split") or "test")

    @property
    def metrics(self) -> dict[str, bool]:
        """Names of the metrics, and whether higher is better."""
        listed = self.settings.get("metric_list") or []
        return {str(entry["metric"]): bool(entry.get("higher_is_better", True)) for entry in listed}


def version() -> str:
    """Version of the installed lmms-eval.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.metadata.version("lmms_eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            "benchmark=lmms needs the package lmms-eval; install it (pip install 'lit_simignore[lmms]'), "
            "best in an environment of its own"
        ) from error


def find_task(name: str) -> TaskFile:
    """The task called ``name``.

    Raises:
        UserError: lmms-eval is not installed, or has no task of that name.
    """
    version()
    found = _index(_folders())
    if not name:
        raise UserError(
            f"expected benchmark.task=<one of {len(found)} tasks of lmms-eval>, such as scienceqa_img or pope"
        )
    if name not in found:
        raise UserError(f"lmms-eval {version()} has no task {name!r}; {nearest(name, found)}")
    file = found[name]
    read: list[Path] = []
    settings = _settings(file, read)
    return TaskFile(name, file, settings, _digest(read))


def _folders() -> tuple[Path, ...]:
    """The package's tasks, then those of plugins."""
    spec = importlib.util.find_spec(PACKAGE)  # looks for the package without running it
    home = Path(spec.origin).parent if spec and spec.origin else Path()
    own = (folder / PLUGIN_FOLDER for folder in plugin_folders())
    return (home / "tasks", *(folder for folder in own if folder.is_dir()))


@cache
def _index(folders: tuple[Path, ...]) -> dict[str, Path]:
    """YAML of every task by name, from the text of the files: parsing two thousand of them would take half a minute."""
    found: dict[str, Path] = {}
    for file in (file for folder in folders for file in sorted(folder.rglob("*.yaml"))):
        for name in _NAME.findall(file.read_bytes()):
            found.setdefault(name.decode(errors="replace"), file)
    return found


def _settings(file: Path, read: list[Path]) -> dict[str, Any]:
    """The YAML with what it includes, as lmms-eval merges them; files are added to ``read``."""
    if len(read) > _MOST_INCLUDES:
        raise UserError(f"{file.name}: more than {_MOST_INCLUDES} files include one another")
    read.append(file)
    with file.open("rb") as opened:
        loaded = yaml.load(opened, _Plain)  # noqa: S506 - a SafeLoader that knows fewer tags still
    own = dict(loaded) if isinstance(loaded, dict) else {}
    included = own.pop("include", [])
    merged: dict[str, Any] = {}
    for name in reversed([included] if isinstance(included, str) else list(included)):
        merged |= _settings(Path(os.path.normpath(file.parent / str(name))), read)
    return merged | own


def _digest(files: list[Path]) -> str:
    code = {other for file in files for other in file.parent.glob("*.py")}
    hashed = hashlib.sha256()
    for file in sorted({*files, *code}):
        hashed.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return hashed.hexdigest()[:16]


# ---------------------------------------------------------------- what the loop can run


def check_runs(task: TaskFile, prompts: str) -> None:
    """Refuse a task that would be run differently from what it says, before anything is loaded.

    Raises:
        UserError: says what the task wants.
    """
    reason = next(_reasons(task), None)
    if reason:
        raise UserError(f"lmms-eval's task {task.name!r} {reason}; choose a task of pictures with one greedy answer")
    known = task.settings.get("lmms_eval_specific_kwargs")
    if prompts != "default" and (not isinstance(known, dict) or prompts not in known):
        names = known if isinstance(known, dict) else {"default": None}
        raise UserError(
            f"benchmark.prompts: task {task.name!r} has no prompts for {prompts!r}; {nearest(prompts, names)}"
        )


def _reasons(task: TaskFile) -> Iterator[str]:
    settings, generation = task.settings, task.generation
    data = settings.get("dataset_kwargs") or {}
    kind = settings.get("output_type", "generate_until")
    if "class" in settings:
        yield "is a program of its own"
    if data.get("video") or "From_YouTube" in data:
        yield "shows videos"
    if kind != "generate_until":
        yield f"has output_type {kind}, for which lmms-eval needs losses or several rounds of an answer"
    if settings.get("num_fewshot"):
        yield f"shows {settings['num_fewshot']} solved examples first"
    if int(settings.get("repeats") or 1) > 1:
        yield f"asks every question {settings['repeats']} times"
    if generation.get("do_sample") and float(generation.get("temperature", 1)) > 0:
        yield "draws its answers at random (do_sample)"
    if int(generation.get("num_beams") or 1) > 1:
        yield f"searches with {generation['num_beams']} beams"


# ---------------------------------------------------------------- from here on code of the task runs


def load_task(task: TaskFile, changes: Mapping[str, Any], prompts: str) -> Any:
    """The task object of lmms-eval, made by its own loader, with its data.

    Args:
        task: as found.
        changes: settings of the YAML that are replaced, such as ``dataset_path``.
        prompts: whose prompts, a key of the task's ``lmms_eval_specific_kwargs``.

    Raises:
        UserError: the package, the task's code or its data cannot be loaded.
    """
    try:
        importlib.import_module("loguru").logger.disable(PACKAGE)
        tasks = importlib.import_module(f"{PACKAGE}.tasks")
        manager = tasks.TaskManager(include_path=str(task.file.parent), include_defaults=False, model_name=prompts)
        (loaded,) = manager.load_config({"task": task.name, **changes}).values()
    # Code of two hundred authors, their dependencies and a download: whatever goes wrong ends in one readable line.
    except Exception as error:
        raise UserError(f"lmms-eval's task {task.name!r} cannot be loaded: {_cause(error)}") from error
    return loaded


def _cause(error: Exception) -> str:
    """What is behind an error, also behind lmms-eval's retries, in one line."""
    attempt = getattr(error, "last_attempt", None)
    inner = attempt.exception() if attempt is not None else error
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0] if lines else ''}"
