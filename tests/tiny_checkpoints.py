"""Whole checkpoints of every family in a folder: the tiny model, a tokenizer made here, the family's real processor.

The tokenizer gives the marks around images the ids that :mod:`tests.tiny_families` gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lit_simignore.surgery import processors as ours
from tests.tiny_families import tiny_family
from tests.tiny_models import WORDS

NAMED = {
    "llava": {"image_token": "<image>", "video_token": "<video>"},
    "qwen": {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    },
    "internvl": {
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
    },
    "idefics": {
        "image_token": "<image>",
        "video_token": "<video>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
        "fake_image_token": "<fake_token_around_image>",
    },
    "gemma3": {
        "image_token": "<image_soft_token>",
        "video_token": "<video>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
    "mistral3": {
        "image_token": "[IMG]",
        "video_token": "<video>",
        "open_token": "<open>",
        "image_end_token": "[IMG_END]",
        "image_break_token": "[IMG_BREAK]",
    },
}
"""Special tokens by attribute, in the order of their ids from 4 on."""

SIDE = {"height": 24, "width": 24}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]


def _tokenizer(kind: str, start: bool = True) -> PreTrainedTokenizerFast:
    named = NAMED[kind]
    tiles = [f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)]
    listed = ["<pad>", "<s>", "</s>", "<unk>", *named.values()]
    fillers = [f"<{number}>" for number in range(len(listed), 10)]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys((*listed, *fillers, *tiles, *WORDS)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,()]"), "isolated")]
    )
    if start:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=named,
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*named.values(), *tiles]})
    return tokenizer


def _template(mark: str) -> str:
    return (
        "{% for m in messages %}USER: {% for c in m.content %}"
        "{% if c.type == 'image' %}" + mark + "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )


def _llava() -> Any:
    return hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(size=SIDE, crop_size=SIDE),
        _tokenizer("llava"),
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image> "),
    )


def _llava_next() -> Any:
    return hf.LlavaNextProcessor(
        hf.LlavaNextImageProcessorPil(size={"shortest_edge": 24}, crop_size=SIDE, image_grid_pinpoints=PINPOINTS),
        _tokenizer("llava"),
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image> "),
    )


def _llava_onevision() -> Any:
    return ours.ImagesOnlyLlavaOnevision(
        hf.LlavaOnevisionImageProcessorPil(size=SIDE, image_grid_pinpoints=PINPOINTS),
        _tokenizer("llava"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template("<image> "),
    )


def _qwen(kind: Callable[..., Any]) -> Any:
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    return kind(
        hf.Qwen2VLImageProcessorPil(patch_size=4, temporal_patch_size=2, merge_size=2, size=pixels),
        _tokenizer("qwen", start=False),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def _internvl() -> Any:
    return ours.ImagesOnlyInternVL(
        hf.GotOcr2ImageProcessorPil(size=SIDE, min_patches=1, max_patches=4),
        _tokenizer("internvl", start=False),
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>\n"),
    )


def _idefics(processor: Callable[..., Any], images: Callable[..., Any]) -> Any:
    size = {"longest_edge": 24}
    return processor(
        images(do_image_splitting=False, max_image_size=size, size=size),
        _tokenizer("idefics"),
        image_seq_len=4,
        chat_template=_template("<image>"),
    )


def _gemma3() -> Any:
    return ours.GroupedGemma3(
        hf.Gemma3ImageProcessorPil(size=SIDE),
        _tokenizer("gemma3"),
        image_seq_length=4,
        chat_template=_template("<start_of_image>"),
    )


def _paligemma() -> Any:
    images = hf.SiglipImageProcessorPil(size=SIDE, image_seq_length=16)
    return hf.PaliGemmaProcessor(images, _tokenizer("llava", start=False))


def _instructblip() -> Any:
    images = hf.BlipImageProcessorPil(size=SIDE)
    return hf.InstructBlipProcessor(images, _tokenizer("llava"), _tokenizer("llava"), num_query_tokens=8)


def _mistral3() -> Any:
    return ours.ImagesOnlyPixtral(
        hf.PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4}),
        _tokenizer("mistral3"),
        patch_size=4,
        spatial_merge_size=2,
        chat_template=_template("[IMG]"),
    )


PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": lambda: _qwen(ours.ImagesOnlyQwen2VL),
    "qwen2_5_vl": lambda: _qwen(ours.ImagesOnlyQwen25VL),
    "qwen3_vl": lambda: _qwen(ours.ImagesOnlyQwen3VL),
    "internvl": _internvl,
    "idefics3": lambda: _idefics(hf.Idefics3Processor, hf.Idefics3ImageProcessorPil),
    "smolvlm": lambda: _idefics(ours.ImagesOnlySmolVLM, hf.SmolVLMImageProcessorPil),
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "instructblip": _instructblip,
    "mistral3": _mistral3,
}


def save_tiny_checkpoint(name: str, folder: Path) -> Path:
    """Write model and processor of the family into ``folder``, as a checkpoint from the hub would have them."""
    tiny_family(name).save_pretrained(folder)
    PROCESSORS[name]().save_pretrained(folder)
    return folder
