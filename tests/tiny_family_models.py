"""Tiny random models of every family: made in code, float32, a fraction of a second each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.masked_reference import IMAGE_ID
from tests.tiny_models import DECODER, reinitialise

VOCAB = 160
PAD, BOS, EOS = 0, 1, 2
VIDEO, OPEN, CLOSE, BREAK, TILE = 5, 6, 7, 8, 9
FIRST_WORD = 20

TEXT: dict[str, Any] = {**DECODER, "vocab_size": VOCAB}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]
MARKS = {"video_token_id": VIDEO, "vision_start_token_id": OPEN, "vision_end_token_id": CLOSE}


def _llava(text: dict[str, Any]) -> nn.Module:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**text),
        image_token_id=IMAGE_ID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return hf.LlavaForConditionalGeneration._from_config(config)


def _llava_next(text: dict[str, Any]) -> nn.Module:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.MistralConfig(**text, sliding_window=None),
        image_token_id=IMAGE_ID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
    )
    return hf.LlavaNextForConditionalGeneration._from_config(config)


def _llava_onevision(text: dict[str, Any]) -> nn.Module:
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION),
        text_config=hf.Qwen2Config(**text),
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=PINPOINTS,
    )
    return hf.LlavaOnevisionForConditionalGeneration._from_config(config)


def _mrope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0, **more}


PATCHES = {"num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3}


def _qwen2_vl(text: dict[str, Any]) -> nn.Module:
    config = hf.Qwen2VLConfig(
        text_config={**text, "rope_parameters": _mrope()},
        vision_config={**PATCHES, "depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        image_token_id=IMAGE_ID,
        **MARKS,
    )
    return hf.Qwen2VLForConditionalGeneration._from_config(config)


def _qwen2_5_vl(text: dict[str, Any]) -> nn.Module:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
    config = hf.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": _mrope()},
        vision_config={**PATCHES, **vision, "window_size": 16, "fullatt_block_indexes": [1]},
        image_token_id=IMAGE_ID,
        **MARKS,
    )
    return hf.Qwen2_5_VLForConditionalGeneration._from_config(config)


def _qwen3_vl(text: dict[str, Any]) -> nn.Module:
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
    config = hf.Qwen3VLConfig(
        text_config={**text, "head_dim": 16, "rope_parameters": _mrope(mrope_interleaved=True)},
        vision_config={**PATCHES, **vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        image_token_id=IMAGE_ID,
        **MARKS,
    )
    return hf.Qwen3VLForConditionalGeneration._from_config(config)


def _internvl(text: dict[str, Any]) -> nn.Module:
    vision = {**VISION, "image_size": [24, 24], "patch_size": [6, 6], "use_absolute_position_embeddings": True}
    config = hf.InternVLConfig(
        vision_config={**vision, "norm_type": "layer_norm", "hidden_act": "gelu"},
        text_config=hf.Qwen2Config(**text).to_dict(),
        image_token_id=IMAGE_ID,
        image_seq_length=4,
        downsample_ratio=0.5,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return hf.InternVLForConditionalGeneration._from_config(config)


def _idefics3(text: dict[str, Any]) -> nn.Module:
    config = hf.Idefics3Config(
        vision_config=VISION, text_config=hf.LlamaConfig(**text).to_dict(), image_token_id=IMAGE_ID, scale_factor=2
    )
    return hf.Idefics3ForConditionalGeneration._from_config(config)


def _smolvlm(text: dict[str, Any]) -> nn.Module:
    config = hf.SmolVLMConfig(
        vision_config=VISION, text_config=hf.LlamaConfig(**text).to_dict(), image_token_id=IMAGE_ID, scale_factor=2
    )
    return hf.SmolVLMForConditionalGeneration._from_config(config)


def _gemma3(text: dict[str, Any]) -> nn.Module:
    layers = {"layer_types": ["sliding_attention", "full_attention"] * 2, "query_pre_attn_scalar": 16, "head_dim": 16}
    config = hf.Gemma3Config(
        text_config={"sliding_window": 512, **layers, **text},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_id=IMAGE_ID,
        boi_token_index=OPEN,
        eoi_token_index=CLOSE,
    )
    return hf.Gemma3ForConditionalGeneration._from_config(config)


def _paligemma(text: dict[str, Any]) -> nn.Module:
    config = hf.PaliGemmaConfig(
        text_config={"model_type": "gemma", "head_dim": 16, **text},
        vision_config={**VISION, "model_type": "siglip_vision_model", "projection_dim": 64},
        projection_dim=64,
        hidden_size=64,
        image_token_id=IMAGE_ID,
    )
    return hf.PaliGemmaForConditionalGeneration._from_config(config)


def _instructblip(text: dict[str, Any]) -> nn.Module:
    qformer = {"vocab_size": VOCAB, "encoder_hidden_size": 32, "cross_attention_frequency": 2}
    config = hf.InstructBlipConfig(
        vision_config=VISION,
        qformer_config={
            **{key: VISION[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")},
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            **qformer,
        },
        text_config={**hf.LlamaConfig(**text).to_dict(), "model_type": "llama"},
        num_query_tokens=8,
        image_token_index=IMAGE_ID,
    )
    return hf.InstructBlipForConditionalGeneration._from_config(config)


def _mistral3(text: dict[str, Any]) -> nn.Module:
    config = hf.Mistral3Config(
        vision_config={**VISION, "model_type": "pixtral", "image_size": 32, "patch_size": 4, "head_dim": 16},
        text_config=hf.MistralConfig(**text, sliding_window=None, head_dim=16).to_dict(),
        image_token_id=IMAGE_ID,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return hf.Mistral3ForConditionalGeneration._from_config(config)


BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "instructblip": _instructblip,
    "mistral3": _mistral3,
}


def tiny_family(name: str, attention: str = "sdpa", seed: int = 0, **text: Any) -> Any:
    """A random model of the family, in evaluation mode. ``text`` overrides fields of the decoder's configuration."""
    model: Any = BUILDERS[name]({**TEXT, **text})
    model.set_attn_implementation(attention)
    reinitialise(model, seed)
    if "gemma" in name:  # their norms scale by one more than the weight
        _shift_norms(model.get_decoder())
    for generating in {model, getattr(model, "language_model", model)}:
        generating.generation_config.eos_token_id = None  # never stop early: tests compare whole continuations
        generating.generation_config.pad_token_id = PAD
    return model.eval()


def _shift_norms(decoder: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "norm" in name:
                weight.sub_(1)
