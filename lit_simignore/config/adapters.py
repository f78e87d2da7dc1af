"""How a fine-tuned model was pruned in training, as methods that its evaluation can be asked for by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_simignore.config.compose import Layer, Layers
from lit_simignore.config.methods import parts as known_parts
from lit_simignore.config.typed import ConfigError
from lit_simignore.discovery import nearest

FILE = "pruning.json"
TRAINED = "trained"
"""Name of the method that a fine-tuned model was trained with."""


def with_trained_pruning(layers: Layers) -> Layers:
    """``layers`` with what ``pruning.json`` of ``model.adapter`` or of a local model says, weaker than everything else.

    It defines the method ``trained`` and asks for it beside the baseline where nothing else was asked for. Only names
    of parts and plain fields are read from the file.

    Raises:
        ConfigError: the file is damaged.
    """
    model = layers.merged(resolve=False).get("model")
    said = model if isinstance(model, Mapping) else {}
    for name in ("adapter", "path"):
        path = Path(str(said.get(name))) / FILE
        if said.get(name) and path.is_file():
            parts = _read(path)
            methods = (
                {"methods": ["baseline", TRAINED], "method": {TRAINED: parts}} if parts else {"methods": ["baseline"]}
            )
            defaults, *others = layers.layers
            return Layers((defaults, Layer(str(path), methods), *others))
    return layers


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        parts = [(str(part["part"]), dict(part["fields"])) for part in found["parts"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            "", f"{path}: expected how the model was pruned ({type(error).__name__}); remove it"
        ) from error
    if unknown := sorted({name for name, _ in parts} - set(known_parts())):
        raise ConfigError("", f"{path}: unknown part {unknown[0]!r}; {nearest(unknown[0], known_parts())}")
    if len({name for name, _ in parts}) < len(parts):
        raise ConfigError("", f"{path}: names a part twice, which a method cannot; give methods= yourself")
    return {name: {key: value for key, value in fields.items() if value is not None} for name, fields in parts}
