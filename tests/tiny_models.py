"""Tiny random models and processors for tests, made in code: no download, no files, a fraction of a second.

Weights are drawn large enough that a wrong mask or position moves logits by whole units, and tokens differ.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lit_simignore.types import Role, Sample, Segment

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = (  # noqa: SIM905 - a sentence is easier to read than a list of words
    "USER: ASSISTANT: context is given here . What colour shape animal ? : , "
    "( ) A B C D E red green blue square circle cat dog bird of the a in picture how many left right Context Question "
    "Options Answer with letter from choices directly one two three four five six seven eight nine ten"
).split()
IMAGE_SIDE, PATCH = 24, 6
TOKENS_PER_IMAGE = (IMAGE_SIDE // PATCH) ** 2
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: "
    "{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% else %} ASSISTANT: {{ m.content[0].text }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)

DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""A decoder with grouped-query attention and four layers; its words are another matter."""


def reinitialise(model: nn.Module, seed: int = 0) -> None:
    """Weights with gain above one and unit embeddings, so that random models react to every input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                is_scale = "norm" in name.lower() and name.endswith("weight")
                parameter.copy_((1.0 if is_scale else 0.0) + 0.1 * noise)
            elif "embed" in name and parameter.ndim == 2:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise * 1.5 / parameter[0].numel() ** 0.5)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with character offsets, left padding and an image placeholder."""
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys((*SPECIAL, *WORDS)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,()]"), "isolated")]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="right",
        model_max_length=256,
    )


def tiny_processor(chat_template: str | None = CHAT_TEMPLATE) -> LlavaProcessor:
    """A processor for :func:`tiny_llava`: 16 visual tokens per image."""
    from transformers import CLIPImageProcessorPil

    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return LlavaProcessor(
        CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False),
        tiny_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def tiny_llava(attention: str = "sdpa", seed: int = 0, **text: Any) -> LlavaForConditionalGeneration:
    """A random LLaVA with grouped-query attention, 4 layers, 16 visual tokens per image, in float32."""
    vocab_size = len(dict.fromkeys((*SPECIAL, *WORDS)))
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(**{**DECODER, "vocab_size": vocab_size, **text}),
        image_token_id=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=TOKENS_PER_IMAGE,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    reinitialise(model, seed)
    model.generation_config.eos_token_id = None  # never stop early: tests compare whole continuations
    model.generation_config.pad_token_id = 0
    model.generation_config.suppress_tokens = [SPECIAL.index("<image>")]  # as every trained model does by itself
    return model.eval()


def tiny_image(seed: int = 0, size: tuple[int, int] = (IMAGE_SIDE, IMAGE_SIDE)) -> Image.Image:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tiny_sample(name: str, question: str, options: str = "( A ) red ( B ) blue", num_images: int = 1) -> Sample:
    """A question with context, options and an instruction, over ``num_images`` random images."""
    return Sample(
        sample_id=name,
        segments=(
            Segment("Context : context is given here . ", Role.CONTEXT),
            Segment(f"Question : {question} ", Role.QUESTION),
            Segment(f"Options : {options} ", Role.OPTIONS),
            Segment("Answer with the letter", Role.TEMPLATE),
        ),
        images=tuple(tiny_image(zlib.crc32(f"{name}/{i}".encode())) for i in range(num_images)),
        answer="A",
    )


QUESTIONS = (
    "What colour is the cat in the picture ?",
    "how many dog left ?",
    "What shape is the bird of the picture , left or right , in the picture ?",
)


@dataclass
class Batch:
    """Model inputs, their spans and the samples."""

    inputs: dict[str, Any]
    spans: Any
    samples: list[Sample]

    @property
    def length(self) -> int:
        """Columns of the prompt."""
        return int(self.inputs["input_ids"].shape[1])


def tiny_batch(
    num_images: tuple[int, ...] = (1, 1, 1),
    processor: LlavaProcessor | None = None,
    questions: tuple[str, ...] = QUESTIONS,
) -> Batch:
    """Prompts of different lengths, left-padded into one batch; of one length where there is one question."""
    from lit_simignore.surgery.prepare import prepare

    samples = [
        tiny_sample(f"s{i}", questions[i % len(questions)], num_images=count) for i, count in enumerate(num_images)
    ]
    inputs, spans = prepare(processor or tiny_processor(), samples)
    return Batch(dict(inputs), spans, samples)
