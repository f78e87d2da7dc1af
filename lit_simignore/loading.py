"""The model that a configuration names, with everything that the configuration says about it."""

from __future__ import annotations

import importlib.util
from typing import Any

from lit_simignore.config.schema import Dtype, ModelConfig, Quantization
from lit_simignore.types import UserError


def load_model(config: ModelConfig, **placement: Any) -> tuple[Any, Any]:
    """The configured model and its processor.

    Args:
        config: of the model.
        placement: ``device_map`` and ``max_memory`` in place of the configuration's.

    Raises:
        UserError: no such model or adapter, or a package for it is missing.
    """
    from lit_simignore.surgery.load import load

    model: Any
    model, processor = load(
        config.path,
        dtype=None if config.dtype is Dtype.AUTO else config.dtype.value,
        **{"device_map": config.device_map, **placement},
        attn_implementation=config.attn_implementation,
        quantization_config=_quantization(config.quantization),
        trust_remote_code=config.trust_remote_code,
        revision=config.revision,
    )
    if config.adapter is not None:
        from lit_simignore.engine.finetune_export import load_trained

        load_trained(model, config.adapter)
    return model, processor


def _quantization(wish: Quantization) -> Any:
    if wish is Quantization.NONE:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    asked = f"model.quantization={wish.value}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{asked} needs bitsandbytes: pip install -e '.[gpu]'")
    if not torch.accelerator.is_available():
        raise UserError(f"{asked} needs a GPU, and none is here; leave it out, or run where there is one")
    return BitsAndBytesConfig(load_in_4bit=wish is Quantization.BITS4, load_in_8bit=wish is Quantization.BITS8)
