"""Where ``configs/`` and ``experiments/`` are, and the YAML files in them.

Each is looked for in the current folder, beside the package (a checkout, however it was installed) and where a wheel
puts its data. All of them count; a file in an earlier place hides one of the same name in a later place.
``experiments/`` is part of a checkout and not of the wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lit_simignore.config.typed import ConfigError
from lit_simignore.discovery import nearest

_ROOTS = (Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "lit_simignore")


def options(group: str) -> dict[str, Path]:
    """The files of ``configs/<group>/`` by the name that chooses them, sorted."""
    found = {path.stem: path for path in _files(f"configs/{group}/*.yaml")}
    return dict(sorted(found.items()))


def experiments() -> dict[str, Path]:
    """Overlays by name: ``pico`` is ``experiments/pico/config.yaml``, ``one/7b`` is ``experiments/one/7b.yaml``.

    The recipes of ``configs/finetune/`` are overlays too, by the name of their file. ``sweep.yaml`` and
    ``sweep-*.yaml`` are not: they are sweeps, which ``python -m lit_simignore.sweep`` and W&B run. What lies beside an
    overlay for one model is none of its own, see :func:`variants`.
    """
    found = options("finetune")
    for path in _files("experiments/*/*.yaml"):
        if path.stem.partition("-")[0] == "sweep" or _stem_of(path) is not None:
            continue
        parent = path.parent.name
        found[parent if path.stem == "config" else f"{parent}/{path.stem}"] = path
    return dict(sorted(found.items()))


def variants() -> dict[str, list[str]]:
    """Names of the models for which there is more to an overlay, and the names of those overlays, sorted."""
    found: dict[str, list[str]] = {}
    for name, path in experiments().items():
        for beside in sorted(path.parent.glob(f"{path.stem}.*.yaml")):
            found.setdefault(beside.stem.removeprefix(f"{path.stem}."), []).append(name)
    return dict(sorted(found.items()))


def variant(overlay: Path, model: str) -> Path | None:
    """What is laid over ``overlay`` for a model of ``configs/model/``: ``config.pico.yaml`` beside ``config.yaml``."""
    path = overlay.parent / f"{overlay.stem}.{model}.yaml"
    return path if model in options("model") and path.is_file() else None  # no path of somebody's own gets here


def _stem_of(path: Path) -> str | None:
    """The name before a dot of which there is a file as well, so that ``path`` is laid over that file."""
    parts = path.stem.split(".")
    stems = [".".join(parts[:end]) for end in range(1, len(parts))]
    return next((stem for stem in stems if path.with_name(f"{stem}.yaml").is_file()), None)


def _files(pattern: str) -> list[Path]:
    """All matches, those in places that hide others last."""
    return [path for parent in reversed((Path.cwd(), *_ROOTS)) for path in sorted(parent.glob(pattern))]


def option(group: str, name: str) -> Path:
    """The file that ``group=name`` chooses."""
    found = options(group)
    if name not in found:
        raise ConfigError(group, f"unknown option {name!r}; {nearest(name, found)}")
    return found[name]


def experiment(name: str) -> Path:
    """The overlay called ``name``; a path to a YAML file, such as a run's ``config.yaml``, is one as well."""
    if name.endswith(".yaml") and Path(name).is_file():
        return Path(name)
    found = experiments()
    if name not in found:
        raise ConfigError("experiment", f"unknown overlay {name!r}; {nearest(name, found)}")
    return found[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; interpolations are left as they are written."""
    try:
        read = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, DictConfig):
        raise ConfigError("", f"{path}: expected a mapping of keys to values, got a {type(read).__name__}")
    return {str(key): value for key, value in dict(OmegaConf.to_container(read, resolve=False)).items()}  # type: ignore[arg-type]
