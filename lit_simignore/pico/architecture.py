"""The bundled model's exact Hugging Face configuration, initial weights, tokenizer and processor."""

from __future__ import annotations

import math

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lit_simignore.shapes.scenes import IMAGE_SIZE, PATCH_SIZE, PATCHES_PER_SIDE
from lit_simignore.shapes.vocabulary import (
    BOS,
    EOS,
    IMAGE,
    LETTER_INSTRUCTION,
    PAD,
    SPECIAL_TOKENS,
    TOKEN_ID,
)

NUM_VISUAL_TOKENS = PATCHES_PER_SIDE**2
WIDTH = 128
MAX_LENGTH = 512

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% else %}ASSISTANT: {{ message['content'][0]['text'] }}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_config() -> LlavaConfig:
    """LLaVA-1.5 in miniature: CLIP-style tower, two-layer MLP projector, Llama decoder."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(TOKEN_ID),
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        # LLaVA-1.5 reads the second-to-last layer; with three trained layers that would waste one.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=NUM_VISUAL_TOKENS,
        tie_word_embeddings=False,
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised model. HF's standard deviation of 0.02 is far too small at this width."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
                residual = any(end in name for end in ("o_proj", "down_proj", "out_proj", "fc2"))
                parameter.normal_(0, (0.4 if residual else 0.8) / math.sqrt(parameter.shape[1]))
            elif "patch_embedding" in name:
                parameter.normal_(0, 0.07)
        model.get_input_embeddings().weight.normal_(0, 0.08)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=48, do_sample=False
    )
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; ``? . ,`` stand alone; left padding."""
    tokenizer = Tokenizer(models.WordLevel(dict(TOKEN_ID), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_tokens([AddedToken(LETTER_INSTRUCTION, normalized=False, special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=[SPECIAL_TOKENS[IMAGE]],
        padding_side="left",
        model_max_length=MAX_LENGTH,
    )


def build_processor() -> LlavaProcessor:
    """Resizes to 96 x 96 (no crop), CLIP's normalisation, 144 placeholders per image."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False),
        build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=SPECIAL_TOKENS[IMAGE],
        num_additional_image_tokens=1,
    )
