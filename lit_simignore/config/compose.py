"""Compose a configuration: dataclass defaults < ``configs/<group>/<name>.yaml`` < experiment overlay < command line.

Beside an overlay there may be one for a model: ``config.pico.yaml`` is laid over ``config.yaml`` once ``pico`` is the
model, by whatever layer. Fields of a group belong to the option they are written for: where a stronger layer names
another model, benchmark, trainer or logger, weaker layers' fields for that group are left out.

A configuration is data. It holds no dotted path that is called: names are looked up among scanned modules and files.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_simignore.config import folders
from lit_simignore.config.schema import GROUPS
from lit_simignore.config.typed import ConfigError, build, defaults, hints, parse

T = TypeVar("T")

CODE_KEY = "plugins"
"""The one key that names code. The command line takes it before anything is composed; no file may hold it."""


@dataclass(frozen=True)
class Layer:
    """Some keys and where they were written, which error messages name."""

    source: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Layers:
    """What a configuration is made of, the strongest last."""

    layers: tuple[Layer, ...]

    def merged(self, resolve: bool = True) -> dict[str, Any]:
        """One plain mapping: later layers win, lists are replaced, ``${other.key}`` is resolved."""
        try:
            merged = OmegaConf.merge(*(OmegaConf.create(layer.values) for layer in self.layers))
            return typing.cast("dict[str, Any]", OmegaConf.to_container(merged, resolve=resolve))
        except OmegaConfBaseException as error:
            raise ConfigError(str(error.full_key or ""), str(error).splitlines()[0]) from error

    def each(self, section: str) -> list[dict[str, Any]]:
        """What every layer that has ``section`` says about it, in order, with ``${other.key}`` resolved."""
        found = []
        for layer in self.layers:
            if section in layer.values:
                rest = Layer("", {**self.merged(), section: None})
                found.append(Layers((rest, Layer("", {section: layer.values[section]}))).merged()[section])
        return found

    @contextmanager
    def blame(self) -> Iterator[None]:
        """Name the file in messages about a key that came from one."""
        try:
            yield
        except ConfigError as error:
            source = self._source(error.key)
            if source and source not in str(error):
                raise ConfigError("", f"{error} (in {source})") from error
            raise

    def _source(self, key: str) -> str:
        found = [layer.source for layer in self.layers if key and _holds(layer.values, key)]
        return found[-1] if found else ""


def compose(schema: type[T], assignments: Sequence[str]) -> tuple[T, Layers]:
    """Read all layers for ``schema``.

    Args:
        schema: ``EvalConfig`` or ``TrainConfig``, or a dataclass that extends one.
        assignments: ``key=value`` from the command line; ``--key=value``, as sweeps write it, is the same.

    Returns:
        The typed configuration, and its layers, for messages about parts that are built later.

    Raises:
        ConfigError: one line on the first thing that is wrong.
    """
    layers = read_layers(schema, assignments)
    with layers.blame():
        return build(schema, layers.merged()), layers


def read_layers(schema: type, assignments: Sequence[str]) -> Layers:
    """All layers for ``schema``, untyped and unmerged."""
    command_line = _command_line(schema, assignments)
    overlays = _overlays(schema, command_line)
    *overlays, command_line = _of_the_chosen(schema, (*overlays, command_line))
    chosen = Layers((*overlays, command_line))
    with chosen.blame():
        wishes = chosen.merged(resolve=False)
        groups = [layer for group in GROUPS if group in hints(schema) for layer in _group(schema, group, wishes)]
    below = [layer for layer in groups if layer.source]
    above = [layer for layer in groups if not layer.source]
    return Layers((Layer("", defaults(schema)), *below, *overlays, command_line, *above))


def split(assignment: str) -> tuple[str, str]:
    """``key=value`` or ``--key=value`` as a pair of texts."""
    key, equals, value = assignment.lstrip("-").partition("=")
    if not equals or not key or not all(key.split(".")):
        raise ConfigError("", f"expected key=value, got {assignment!r}; --help lists the keys")
    if not value:
        raise ConfigError(key, f"expected a value after {key}=; null clears a key")
    return key, value


def slug(text: str) -> str:
    """``text`` as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def _command_line(schema: type, assignments: Sequence[str]) -> Layer:
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, text = split(assignment)
        *parents, leaf = key.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(key, f"{parent} was set to the value {node!r} as well; give one of the two")
        if key in GROUPS and key in hints(schema):
            node.setdefault(leaf, {})["name"] = text
        else:
            node[leaf] = parse(text, key) if text.startswith("{") else text
    return Layer("", values)


def _overlays(schema: type, command_line: Layer) -> list[Layer]:
    """The overlay that the command line names, and above it the one that lies beside it for the chosen model."""
    name = command_line.values.get("experiment")
    if name is None:
        return []
    path = folders.experiment(name)
    found = [_overlay(schema, path)]
    if "model" in hints(schema):
        beside = folders.variant(path, _model_name(schema, (found[0], command_line)))
        found += [] if beside is None else [_overlay(schema, beside)]
    return found


def _overlay(schema: type, path: Path) -> Layer:
    values = folders.read_yaml(path)
    values.pop("experiment", None)  # a saved config.yaml says where it came from
    if CODE_KEY in values:
        raise ConfigError(CODE_KEY, f"a folder of code is taken from the command line only; remove it from {path}")
    for group in GROUPS:
        if group in hints(schema) and isinstance(values.get(group), str):
            values[group] = {"name": values[group]}
    return Layer(_shown(path), values)


def _model_name(schema: type, layers: Sequence[Layer]) -> str:
    names = [name for layer in layers if (name := _name_in(layer, "model")) is not None]
    return names[-1] if names else str(defaults(schema)["model"]["name"])


def _of_the_chosen(schema: type, layers: Sequence[Layer]) -> list[Layer]:
    """``layers`` without what they say of a group whose name a stronger layer changes."""
    for group in (group for group in GROUPS if group in hints(schema)):
        names = [name for layer in layers if (name := _name_in(layer, group)) is not None]
        layers = [
            layer
            if _name_in(layer, group) in (None, *names[-1:])
            else Layer(layer.source, {key: value for key, value in layer.values.items() if key != group})
            for layer in layers
        ]
    return list(layers)


def _name_in(layer: Layer, group: str) -> str | None:
    """Which option of ``group`` the layer names."""
    said = layer.values.get(group)
    name = said.get("name") if isinstance(said, Mapping) else None
    return None if name is None else str(name)


def _group(schema: type, group: str, wishes: Mapping[str, Any]) -> list[Layer]:
    """What the wished name of ``group`` stands for; layers without a source are stronger than the wish itself."""
    wish = wishes.get(group)
    wish = wish if isinstance(wish, dict) else {}
    name = str(wish.get("name") or defaults(schema)[group]["name"])
    if group == "model" and (unlisted := _unlisted_model(wish)):
        return [unlisted]
    if group == "benchmark" and name not in folders.options(group):
        return []  # found by scanning; a file is needed only to override
    path = folders.option(group, name)
    return [Layer(_shown(path), {group: {"name": name, **folders.read_yaml(path)}})]


def _unlisted_model(wish: Mapping[str, Any]) -> Layer | None:
    """A model that has no file in ``configs/model/``: its path stands for it, and the path's last part names it."""
    name, path = wish.get("name"), wish.get("path")
    if isinstance(name, str) and "/" in name:
        return Layer("", {"model": {"name": slug(Path(name).name), "path": path or name}})
    if isinstance(path, str) and name not in folders.options("model"):
        return Layer("", {"model": {"name": name or slug(Path(path).name)}})
    return None


def _holds(values: Mapping[str, Any], key: str) -> bool:
    node: Any = values
    for part in key.split("[")[0].split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _shown(path: Path) -> str:
    """``path`` as the user would type it here."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
