"""Reading the arguments of hooked calls, however they were passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

CACHE_NAMES = ("cache", "past_key_values")
"""What the cache is called, as an argument and as an output: the second before transformers 5.24."""

_NOTED_IDS: ContextVar[Tensor | None] = ContextVar("lit_simignore_ids", default=None)


def cache_in(named: Mapping[str, Any]) -> Any:
    """The cache among arguments or outputs; ``None`` if there is none."""
    for name, value in named.items():  # asking an output by its older name makes transformers warn
        if name in CACHE_NAMES and value is not None:
            return value
    return None


def cache_name(function: Callable[..., Any]) -> str:
    """What ``function`` of transformers calls its cache."""
    parameters = inspect.signature(function).parameters
    return next(name for name in CACHE_NAMES if name in parameters)


class Signature:
    """The argument names of one module's forward."""

    def __init__(self, module: nn.Module) -> None:
        parameters = inspect.signature(module.forward).parameters.values()
        self._names = [item.name for item in parameters if item.kind is not inspect.Parameter.VAR_KEYWORD]

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name."""
        return {**dict(zip(self._names, args, strict=False)), **kwargs}

    def is_single_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call brings one column: a decoding step, which is left without a look at any context.

        No prefill of one column has visual tokens worth pruning, dynamo cannot trace context variables, and compiled
        decoding must not break its graph.
        """
        for name in ("input_ids", "inputs_embeds"):
            value = kwargs.get(name)
            if value is None and name in self._names[: len(args)]:
                value = args[self._names.index(name)]
            if value is not None:
                return bool(value.shape[1] == 1)
        return False


def note_ids(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Pre-hook of an embedding: keep the ids it is asked for, for a prompt that goes on as embeddings."""
    if args and args[0].ndim == 2 and args[0].shape[1] > 1:
        _NOTED_IDS.set(args[0])


def take_noted_ids(embeds: Tensor) -> Tensor | None:
    """The noted ids, one row per row of ``embeds`` (more under beams), if they can be those of ``embeds``."""
    ids = _NOTED_IDS.get()
    _NOTED_IDS.set(None)
    if ids is None or ids.shape[1] != embeds.shape[1] or embeds.shape[0] % ids.shape[0]:
        return None
    return ids.repeat_interleave(embeds.shape[0] // ids.shape[0], dim=0)
