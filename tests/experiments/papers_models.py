"""Tiny random LLaVA checkpoints with the depth and the heads of 7B and 13B, for the shipped YAML."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf

from tests.masked_reference import IMAGE_ID
from tests.tiny_checkpoints import _template, _tokenizer
from tests.tiny_family_models import BOS, EOS, PAD, VOCAB
from tests.tiny_models import reinitialise

SIZES = {"llava-1.5-7b": (32, 32), "llava-1.5-13b": (40, 40)}
"""Decoder layers and heads, by the name of the model's file."""

SIDE, PATCH = 336, 28


def save_llava(name: str, folder: Path) -> Path:
    """Write a checkpoint. It has 144 visual tokens, a quarter of the real number: attention over all takes too long."""
    layers, heads = SIZES[name]
    text = hf.LlamaConfig(
        hidden_size=4 * heads, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, head_dim=4, max_position_embeddings=4096, vocab_size=VOCAB, pad_token_id=PAD,
        bos_token_id=BOS, eos_token_id=EOS, tie_word_embeddings=False,
    )  # fmt: skip
    vision = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_ID, vision_feature_layer=-2)
    torch.manual_seed(0)
    model = hf.LlavaForConditionalGeneration._from_config(config)
    reinitialise(model)
    model.eval().save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(size=side, crop_size=side), _tokenizer("llava"), patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_template("<image> "),
    )  # fmt: skip
    processor.tokenizer.model_max_length = 4096
    processor.save_pretrained(folder)
    return folder
