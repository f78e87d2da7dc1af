"""Turn plain values (YAML, command line) into a typed dataclass, or say in one line what is wrong with which key.

OmegaConf reads, merges and interpolates; the types are checked here, because its structured configs refuse
``int | list[int]`` and ``Literal``, know an ``Enum`` by its Python name only and hand tuples back as lists. Pruners,
interventions and benchmarks, which are configured by their own fields, may therefore be any plain dataclass.

A value that arrives as a string is read as YAML unless the field wants text: ``model.revision=007`` stays ``007`` and
``trainer.devices=8`` is a number.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml
from omegaconf import OmegaConf

from lit_simignore.config.sentences import sentences
from lit_simignore.discovery import nearest
from lit_simignore.types import UserError

T = TypeVar("T")

_MISMATCH = object()
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path", type(None): "null"}


class ConfigError(UserError):
    """One line about one key.

    Args:
        key: dotted key that the line is about; kept so that the file it came from can be named.
        message: what was expected, what came, what to do.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}" if key and not message.startswith(key) else message)
        self.key = key


def build(cls: type[T], values: Mapping[str, object], where: str = "") -> T:
    """An instance of the dataclass ``cls`` from plain ``values``.

    Args:
        cls: a dataclass; its ``__post_init__`` may refuse values with a ``ValueError``.
        values: field name to plain value.
        where: dotted key of ``values`` in the whole configuration, for messages.

    Raises:
        ConfigError: unknown key, wrong type, missing value, or a value that the class itself refuses.
    """
    arguments = convert_fields(cls, values, where)
    for field in configurable(cls):
        if field.name not in arguments and is_required(field):
            words = describe(hints(cls)[field.name])
            raise ConfigError(join(where, field.name), f"a value is needed ({words}): {sentences(cls).get(field.name)}")
    return refuse_in_one_line(where, lambda: cls(**arguments))


def convert_fields(cls: type, values: Mapping[str, object], where: str = "") -> dict[str, Any]:
    """Typed keyword arguments for ``cls``; fields that ``values`` does not name are left out."""
    known = hints(cls)
    arguments = {}
    for name, value in values.items():
        key = join(where, str(name))
        if name not in known:
            raise ConfigError(key, f"unknown key; {nearest(str(name), known)}")
        arguments[name] = convert(value, known[name], key)
    return arguments


def convert(value: object, hint: Any, key: str = "") -> Any:
    """``value`` as the type that ``hint`` annotates; :class:`ConfigError` where it cannot be one."""
    options = _options(hint)
    if Any in options or object in options:
        return value  # left for the part that knows its type
    if isinstance(value, str):
        parsed = parse(value, key) if str not in options else _parse_or_text(value)
        found = _first(parsed, [option for option in options if option is not str], key)
        if found is not _MISMATCH:
            return found
        if parsed is None:
            value = None
    found = _first(value, options, key)
    if found is _MISMATCH:
        advice = "; put it in quotes" if str in options and value is not None and _is_scalar(value) else ""
        kind = "" if isinstance(value, str) else f" ({type(value).__name__})"
        raise ConfigError(key, f"expected {describe(hint)}, got {value!r}{kind}{advice}")
    return found


def parse(text: str, key: str = "") -> Any:
    """Read one YAML value; ``None`` and ``null`` are both null."""
    if text.strip() == "None":
        return None
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except yaml.YAMLError as error:
        raise ConfigError(key, f"expected a YAML value, got {text!r}; close its brackets and quotes") from error
    return typing.cast("dict[str, Any]", read)["value"]


def plain(value: object) -> Any:
    """The inverse of :func:`build`: dataclasses, enums, paths and tuples as what YAML and JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in configurable(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if _is_scalar(value) else str(value)


def defaults(cls: type) -> dict[str, Any]:
    """Plain default values of ``cls``, sections included; fields that need a value are absent."""
    found = {}
    for field in configurable(cls):
        if field.default is not MISSING:
            found[field.name] = plain(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = plain(field.default_factory())
        elif is_dataclass(section := hints(cls)[field.name]):
            found[field.name] = defaults(typing.cast(type, section))
    return found


def configurable(cls: type) -> list[Field[Any]]:
    """The dataclass fields that a configuration may set."""
    if not is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass: its fields are its configuration")
    return [field for field in fields(cls) if field.init and not field.name.startswith("_")]


def is_required(field: Field[Any]) -> bool:
    """Whether the field has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def hints(cls: type) -> dict[str, Any]:
    """Field name to resolved type annotation, for the configurable fields."""
    resolved = typing.get_type_hints(cls)
    return {field.name: resolved[field.name] for field in configurable(cls)}


def describe(hint: Any) -> str:
    """A type annotation in words, as messages and ``--help`` show it."""
    return " or ".join(_describe_one(option) for option in _options(hint))


def join(where: str, name: str) -> str:
    """Dotted key of ``name`` inside ``where``."""
    return f"{where}.{name}" if where else name


def refuse_in_one_line(where: str, call: Callable[[], T]) -> T:
    """Run a constructor; what it refuses with a ``ValueError`` becomes a :class:`ConfigError` about ``where``."""
    try:
        return call()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(where, " ".join(str(error).split())) from error


def _parse_or_text(text: str) -> Any:
    """For fields that take text besides other things, where text need not be YAML."""
    try:
        return parse(text)
    except ConfigError:
        return text


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _options(hint: Any) -> list[Any]:
    """The members of a union, or the hint alone. ``None`` comes last, as people write it."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for part in typing.get_args(hint) for member in _options(part)]
        return sorted(members, key=lambda member: member is type(None))
    return [type(None) if hint is None else hint]


def _describe_one(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if _is_sequence(origin or hint):
        items = [item for item in arguments if item is not Ellipsis]
        return "a list" + (f" [{', '.join(map(describe, items))}]" if items else "")
    if is_dataclass(hint):
        return "a section of " + ", ".join(hints(typing.cast(type, hint)))
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        return "a mapping"
    return "any value"


def _first(value: object, options: list[Any], key: str) -> Any:
    """``value`` as the first of ``options`` that takes it, or ``_MISMATCH``."""
    for option in options:
        try:
            found = _match(value, option, key)
        except ConfigError:
            if sum(other is not type(None) for other in options) == 1:
                raise  # nothing else it could have meant: the message about the item inside is the better one
            continue
        if found is not _MISMATCH:
            return found
    return _MISMATCH


def _match(value: object, hint: Any, key: str) -> Any:
    """``value`` as ``hint``, which is no union, or ``_MISMATCH``."""
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return value if value in typing.get_args(hint) else _MISMATCH
    if not isinstance(origin, type):
        return _MISMATCH
    if issubclass(origin, Enum):
        return _match_enum(value, origin)
    if _is_sequence(origin):
        return _match_sequence(value, hint, origin, key)
    if is_dataclass(origin):
        return build(origin, value, key) if isinstance(value, Mapping) else _MISMATCH
    if issubclass(origin, Mapping):
        return _match_mapping(value, hint, key)
    return _match_scalar(value, origin)


def _match_scalar(value: object, kind: type) -> Any:
    if kind is Path:
        return Path(value) if isinstance(value, str | Path) else _MISMATCH
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # sweeps write whole numbers as 64.0, YAML reads 1e3 as a float
    if isinstance(value, bool) and kind is not bool:
        return _MISMATCH
    return value if isinstance(value, kind) else _MISMATCH


def _match_enum(value: object, kind: type[Enum]) -> Any:
    for member in kind:
        if value in (member, member.value) or str(value).casefold() == member.name.casefold():
            return member
    return _MISMATCH


def _is_sequence(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Sequence | set | frozenset) and not issubclass(kind, str | bytes)


def _match_sequence(value: object, hint: Any, kind: type, key: str) -> Any:
    if isinstance(value, str):  # a,b without brackets, which some shells expand
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple | set | frozenset):
        value = [value] if value is not None and _is_scalar(value) else value
    if not isinstance(value, list | tuple | set | frozenset):
        return _MISMATCH
    arguments = typing.get_args(hint) or (Any,)
    if kind is tuple and Ellipsis not in arguments and arguments != (Any,):
        if len(value) != len(arguments):
            return _MISMATCH
        return tuple(convert(item, kind, key) for item, kind in zip(value, arguments, strict=True))
    items = [convert(item, arguments[0], f"{key}[{index}]") for index, item in enumerate(value)]
    return kind(items) if issubclass(kind, tuple | set | frozenset) else items


def _match_mapping(value: object, hint: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        return _MISMATCH
    arguments = typing.get_args(hint)
    item_hint = arguments[1] if len(arguments) == 2 else Any
    return {str(name): convert(item, item_hint, join(key, str(name))) for name, item in value.items()}
