"""Loading a model and its processor, by hub name, folder, or the name of a bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from lit_simignore.surgery.families import family_of
from lit_simignore.types import UserError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = ("pico", "pico-unaligned")


def load(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[int | str, int] | None = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and its processor.

    Args:
        name_or_path: ``"pico"`` or ``"pico-unaligned"`` (bundled), a local folder, or a name on the hub.
        dtype: of the weights; ``None`` takes the checkpoint's own where there is an accelerator or a
            ``device_map``, and float32 otherwise, because half precision is slow or missing on CPUs.
        device_map: as in transformers (needs accelerate).
        max_memory: bytes that may be used, by device; devices that are not named are left alone.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; ``None`` lets transformers choose.
        quantization_config: as in transformers.
        trust_remote_code: run code that comes with the checkpoint. Only for checkpoints you have read.
        revision: commit, tag or branch on the hub.

    Raises:
        UserError: no such model; an unknown family (before any weight is read).
    """
    source, hub = _resolve(name_or_path), {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        config = AutoConfig.from_pretrained(source, **hub)
        family = family_of(config)
        options = {
            "dtype": dtype if dtype is not None else _default_dtype(device_map),
            "device_map": device_map,
            "max_memory": max_memory,
            "attn_implementation": attn_implementation,
            "quantization_config": quantization_config,
        }
        given = {name: value for name, value in options.items() if value is not None}
        model = AutoModelForImageTextToText.from_pretrained(source, **given, **hub)
        processor = family.load_processor(source, **hub)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # transformers raises either for a folder that is no checkpoint
        raise UserError(
            f"cannot load {str(name_or_path)!r} as a model: expected a bundled name ({', '.join(BUNDLED)}), a hub id "
            f"or a folder that save_pretrained wrote; {_first_line(error)}"
        ) from error
    processor.tokenizer.padding_side = "left"
    family.complete_processor(processor, config)
    return model.eval(), processor


def _resolve(name_or_path: str | Path) -> str:
    if str(name_or_path) not in BUNDLED:
        return str(name_or_path)
    folder = ASSETS / str(name_or_path)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"the bundled model {str(name_or_path)!r} is missing from this installation; reinstall lit_simignore"
        )
    return str(folder)


def _default_dtype(device_map: object) -> torch.dtype | str:
    return "auto" if device_map is not None or torch.cuda.is_available() else torch.float32


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
