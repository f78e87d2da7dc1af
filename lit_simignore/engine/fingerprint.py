"""What a run is made of, as plain data: two runs with one fingerprint give the same answers to the same samples.

It has a part for the run and one for every method, so that a method can be added without touching the others. World
size, number of workers, timing and reports are not in it. The batch size is in it only where arithmetic is rough
enough that the neighbours of a sample can change its answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.sharding import ORDER
from lit_simignore.plugins import plugin_digest
from lit_simignore.surgery.families import family_of
from lit_simignore.types import Method, UserError

Plain: TypeAlias = "dict[str, Any]"

WHOLE_BYTES = 200 * 2**20
"""Models up to this size are hashed byte by byte, larger ones by samples of every tensor."""

_SAMPLED = 4096
_CALL_STATE = ("padding", "truncation")
_VOLATILE = frozenset({"_name_or_path", "transformers_version", "_attn_implementation", "_commit_hash"})
"""Configuration keys that say where a model came from or what wrote it, not what it computes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """The identity of a run.

    Args:
        run: everything but the methods, as nested plain data.
        methods: the parts of every method, by its name.
    """

    run: Plain
    methods: Mapping[str, Plain]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the run part."""
        return digest(self.run)


def fingerprint(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    methods: Sequence[Method],
    *,
    model_name: str,
    batch_size: int,
    max_new_tokens: int,
    precision: str | None = None,
    share_images: bool = True,
) -> Fingerprint:
    """Collect everything that can change an answer.

    Args:
        model: with its weights; they are read.
        processor: its chat template, tokenizer and image processor count.
        benchmark: counts by its ``identity()`` and protocol.
        methods: each counts by its parts: their classes and fields, and the code of those that are plugins.
        model_name: as the user called it.
        batch_size: counts unless everything is computed in float32.
        max_new_tokens: of one answer.
        precision: Lightning's precision, if the trainer has one.
        share_images: counts where the batch size does.

    Raises:
        UserError: a method has a field that cannot be written down.
    """
    dtype = _dtype(model)
    run: Plain = {
        "model": {
            "name": model_name,
            "config": _config_digest(model),
            "weights": weights_digest(model),
            **_code(type(family_of(model.config))),
        },
        "prompt": _processor_digests(processor),
        "benchmark": {
            "name": type(benchmark).__name__,
            "protocol": benchmark.protocol,
            **_code(type(benchmark)),
            **plain(benchmark.identity()),
        },
        "decoding": {"max_new_tokens": max_new_tokens, "rule": "greedy", "checkpoint": _generation_settings(model)},
        "dtype": dtype,
        "precision": precision or "as loaded",
        "attention": str(getattr(model.config, "_attn_implementation", "")),
    }
    if not is_exact(dtype, precision):
        run["batches"] = {"size": batch_size, "order": ORDER, "share_images": share_images}
    return Fingerprint(run, {method.name: method_identity(method) for method in methods})


def is_exact(dtype: str, precision: str | None) -> bool:
    """Whether neighbours in a batch are taken not to matter: float32 throughout."""
    return dtype == "float32" and precision in (None, "32", "32-true")


def method_identity(method: Method) -> Plain:
    """The classes and fields of a method's parts, in order."""
    return {"parts": [_part(part) for part in method.parts]}


def _part(part: object) -> Plain:
    if not dataclasses.is_dataclass(part):
        raise UserError(f"a method's part must be a dataclass, so that a run can say what it was; got {part!r}")
    fields = {field.name: plain(getattr(part, field.name)) for field in dataclasses.fields(part)}
    return {"class": type(part).__name__, **_code(type(part)), **fields}


def _code(cls: type) -> Plain:
    """The digest of a user's own code: unlike the package it has no version, and changes between two calls."""
    found = plugin_digest(cls)
    return {} if found is None else {"code": found}


def plain(value: object) -> Any:
    """``value`` as JSON knows it: enums by value, paths as text, tensors by digest, sets sorted.

    Raises:
        UserError: something with no lasting description, such as a function.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (Tensor, torch.dtype)):
        return str(value) if isinstance(value, torch.dtype) else hashlib.sha256(_bytes(value)).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _part(value)
    raise UserError(f"expected numbers, strings and lists of them in the fields of a method; got {value!r}")


def digest(value: object) -> str:
    """Sixteen hexadecimal digits of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def differences(old: object, new: object, path: str = "") -> list[str]:
    """Where two pieces of plain data differ, as ``key: old -> new``, in order of the keys."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            found += differences(old.get(key, "(none)"), new.get(key, "(none)"), inner)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        # A method of a single part needs no index to say which one.
        places = [path] if len(old) == 1 else [f"{path}[{i}]" for i in range(len(old))]
        return [line for pair, place in zip(zip(old, new, strict=True), places, strict=True)
                for line in differences(*pair, place)]  # fmt: skip
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- the model


def weights_digest(model: nn.Module) -> str:
    """Sixteen hexadecimal digits of the weights as they are in memory: names, shapes and values.

    What is in memory is what answers: an adapter, a cast or a change made in a notebook counts, and where the file
    lies or when it was written does not. Above :data:`WHOLE_BYTES` 4096 evenly spaced values of every tensor stand
    for it (any training changes nearly all of them); tensors that accelerate keeps off the device count by shape.
    """
    tensors = dict(sorted(model.state_dict().items()))
    whole = sum(_size(tensor) for tensor in tensors.values()) <= WHOLE_BYTES
    hashed = hashlib.sha256()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue
        hashed.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.device.type != "meta":
            hashed.update(_bytes(tensor if whole else _sampled(tensor)))
    return hashed.hexdigest()[:16]


def _size(tensor: object) -> int:
    return tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else 0


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _config_digest(model: nn.Module) -> str:
    config: Any = model.config
    return digest(_stable(config.to_dict()))


def _stable(value: Any) -> Any:
    """Configuration without its volatile keys; objects that are no data count by their text."""
    if isinstance(value, Mapping):
        return {str(key): _stable(entry) for key, entry in value.items() if key not in _VOLATILE}
    if isinstance(value, (list, tuple)):
        return [_stable(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _generation_settings(model: nn.Module) -> Plain:
    """What the checkpoint itself says about generating, e.g. a repetition penalty, apart from sampling."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return {}
    ignored = {"transformers_version", "do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens"}
    return {key: _stable(value) for key, value in settings.to_diff_dict().items() if key not in ignored | _VOLATILE}


def _dtype(model: nn.Module) -> str:
    """Type of the floating-point weights; several are joined, for none of them alone says how it computes."""
    found = {str(value.dtype).removeprefix("torch.") for value in model.parameters() if value.is_floating_point()}
    return "+".join(sorted(found)) or "none"


def _processor_digests(processor: Any) -> Plain:
    images = getattr(processor, "image_processor", None)
    return {
        "chat_template": digest(str(getattr(processor, "chat_template", None))),
        "tokenizer": _tokenizer_digest(getattr(processor, "tokenizer", None)),
        "image_processor": digest(_stable(images.to_dict()) if images is not None else "none"),
    }


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest(str(tokenizer))
    # Padding and truncation are what the last call asked for.
    return digest({key: value for key, value in json.loads(backend.to_str()).items() if key not in _CALL_STATE})
