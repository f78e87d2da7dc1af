"""Tiny random models of every family, and batches for them: made in code, float32, a fraction of a second each.

Vision inputs are random tensors in the shapes that the family's processor makes; prompts carry the same marks around
an image as the processor writes. :mod:`tests.tiny_checkpoints` goes through real processors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from tests.masked_reference import IMAGE_ID
from tests.tiny_models import reinitialise

VOCAB = 160
PAD, BOS, EOS = 0, 1, 2
VIDEO, OPEN, CLOSE, BREAK, TILE = 5, 6, 7, 8, 9
FIRST_WORD = 20

TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}
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


# -- models


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


# -- images


@dataclass
class Pictures:
    """Images of one batch.

    Args:
        inputs: what the model's forward is given.
        marks: per image, the ids that stand for it in a prompt.
        grids: per image, (rows, cols) of its visual tokens; ``None`` where they form no grid.
    """

    inputs: dict[str, Tensor]
    marks: list[list[int]]
    grids: list[tuple[int, int] | None]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _squares(side: int, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Callable[..., Pictures]:
    """One square of visual tokens per image, between the same marks."""

    def draw(model: Any, counts: Sequence[int]) -> Pictures:
        total = sum(counts)
        marks = [[*before, *[IMAGE_ID] * side**2, *after]] * total
        return Pictures({"pixel_values": _noise(total, 3, 24, 24)}, marks, [(side, side)] * total)

    return draw


def _tiles(model: Any, counts: Sequence[int]) -> Pictures:
    sizes = torch.tensor([[24, 48], [40, 44], [48, 24]])[: sum(counts)]
    inputs = {"pixel_values": _noise(len(sizes), 5, 3, 24, 24), "image_sizes": sizes}
    with torch.no_grad():
        features = model.base_model.get_image_features(**inputs, return_dict=True).pooler_output
    return Pictures(inputs, [[IMAGE_ID] * len(rows) for rows in features], [None] * len(sizes))


def _patches(model: Any, counts: Sequence[int]) -> Pictures:
    sizes = torch.tensor([[1, 8, 8], [1, 4, 12], [1, 6, 8]])[: sum(counts)]
    grids = [(int(size[1]) // 2, int(size[2]) // 2) for size in sizes]
    inputs = {"pixel_values": _noise(int(sizes.prod(-1).sum()), 3 * 2 * 4 * 4), "image_grid_thw": sizes}
    return Pictures(inputs, [[OPEN, *[IMAGE_ID] * rows * cols, CLOSE] for rows, cols in grids], list(grids))


def _padded(model: Any, counts: Sequence[int]) -> Pictures:
    """One overview per image; samples with fewer images are filled up with empty ones."""
    pixels = torch.zeros(len(counts), max(counts), 3, 24, 24)
    for row, count in enumerate(counts):
        pixels[row, :count] = _noise(3, 3, 24, 24)[:count] + row
    marks = [[BREAK, OPEN, *[IMAGE_ID] * 4, BREAK]] * sum(counts)
    return Pictures({"pixel_values": pixels}, marks, [(2, 2)] * sum(counts))


def _rows(model: Any, counts: Sequence[int]) -> Pictures:
    sizes = torch.tensor([[32, 32], [16, 32], [32, 16]])[: sum(counts)]
    grids = [(int(size[0]) // 8, int(size[1]) // 8) for size in sizes]
    marks = [[*([*[IMAGE_ID] * cols, BREAK] * rows)[:-1], CLOSE] for rows, cols in grids]
    return Pictures({"pixel_values": _noise(len(sizes), 3, 32, 32), "image_sizes": sizes}, marks, list(grids))


def _queries(model: Any, counts: Sequence[int]) -> Pictures:
    total = len(counts)
    ids = torch.randint(FIRST_WORD, VOCAB, (total, 6), generator=torch.Generator().manual_seed(2))
    inputs = {
        "pixel_values": _noise(total, 3, 24, 24),
        "qformer_input_ids": ids,
        "qformer_attention_mask": torch.ones_like(ids),
    }
    return Pictures(inputs, [[IMAGE_ID] * 8] * total, [None] * total)


DRAWERS: dict[str, Callable[[Any, Sequence[int]], Pictures]] = {
    "llava": _squares(4),
    "llava_next": _tiles,
    "llava_onevision": _tiles,
    "qwen2_vl": _patches,
    "qwen2_5_vl": _patches,
    "qwen3_vl": _patches,
    "internvl": _squares(2, (OPEN,), (CLOSE,)),
    "idefics3": _padded,
    "smolvlm": _padded,
    "gemma3": _squares(2, (OPEN,), (CLOSE,)),
    "paligemma": _squares(4),
    "instructblip": _queries,
    "mistral3": _rows,
}
ONE_IMAGE_EACH = frozenset({"instructblip"})
"""Families whose samples have exactly one image."""


# -- batches


@dataclass
class FamilyBatch:
    """Prompts of different lengths, left-padded.

    Args:
        inputs: keyword arguments for forward and for ``generate``.
        num_visual: visual tokens per sample.
        grids: (rows, cols) of every image per sample; empty where one of them has none.
    """

    inputs: dict[str, Tensor]
    num_visual: list[int]
    grids: list[tuple[tuple[int, int], ...]]

    @property
    def length(self) -> int:
        """Columns of the prompt."""
        return int(self.inputs["input_ids"].shape[1])


def tiny_family_batch(name: str, model: Any, counts: Sequence[int] = (2, 1, 0)) -> FamilyBatch:
    """A batch with ``counts`` images per sample (one each where the family has it so), text around and in between."""
    counts = [1] * len(counts) if name in ONE_IMAGE_EACH else list(counts)
    pictures = DRAWERS[name](model, counts)
    random = torch.Generator().manual_seed(3)
    prompts, grids, first = [], [], 0
    for row, count in enumerate(counts):
        prompts.append(_prompt(pictures.marks[first : first + count], row, random))
        shapes = pictures.grids[first : first + count]
        grids.append(() if None in shapes else tuple(shape for shape in shapes if shape is not None))
        first += count
    inputs = {**_pad(prompts), **pictures.inputs}
    visual = inputs["input_ids"] == IMAGE_ID
    inputs |= _token_types(name, visual)
    return FamilyBatch(inputs, visual.sum(1).tolist(), grids)


def _prompt(marks: list[list[int]], row: int, random: torch.Generator) -> list[int]:
    def words(number: int) -> list[int]:
        return torch.randint(FIRST_WORD, VOCAB, (number,), generator=random).tolist()

    ids = [BOS, *words(2 + 3 * (row % 2))]
    for image in marks:
        ids += [*image, *words(1)]
    return [*ids, *words(9 - 2 * (row % 3))]


def _pad(prompts: list[list[int]]) -> dict[str, Tensor]:
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), PAD)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _token_types(name: str, visual: Tensor) -> dict[str, Tensor]:
    if name.startswith("qwen"):
        return {"mm_token_type_ids": visual.int()}
    if name == "gemma3":
        return {"token_type_ids": visual.long()}
    if name == "paligemma":  # the whole prompt is prefix
        return {"token_type_ids": torch.zeros_like(visual, dtype=torch.long)}
    return {}
