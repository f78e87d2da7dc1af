"""From samples to model inputs, with a label on every token of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from lit_simignore.surgery.images import open_image
from lit_simignore.surgery.spans import NO_ROLE, ROLE_CODES, Spans
from lit_simignore.types import Role, Sample, UserError

PLACEHOLDER = "\ue000"
"""A private-use character that stands in for the user's text to learn what a template puts around it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One prompt as text.

    Args:
        text: what the tokenizer will see, one image token per image.
        start: where the sample's own text begins in it.
    """

    text: str
    start: int


def prepare(
    processor: Any,
    samples: Sequence[Sample],
    images: Sequence[Sequence[Image.Image]] | None = None,
    device: torch.device | str | None = None,
) -> tuple[BatchFeature, Spans]:
    r"""Render, tokenize and label a batch of samples.

    Every sample becomes one user turn, images first, then its segments joined as they are, in the processor's chat
    template with a generation prompt. A processor without a chat template gets ``USER: <image>\n{text} ASSISTANT:``.
    The batch is left-padded.

    Args:
        processor: a Hugging Face processor with a fast tokenizer.
        samples: at least one.
        images: opened images per sample; ``None`` opens ``sample.images``.
        device: where to put the inputs; ``None`` leaves them on the CPU.

    Returns:
        Keyword arguments for ``model(**inputs)`` and ``model.generate(**inputs)``, and the spans for
        ``attach(..., spans=spans)``.

    Raises:
        UserError: names the sample: another number of images than it has; an image that cannot be opened; a text
            that holds the image token; a prompt longer than the tokenizer allows; a template that changes the text.
    """
    if not samples:
        raise UserError("prepare expects at least one sample; got none")
    opened = _open_all(samples) if images is None else _check_counts(samples, images)
    rendered = [render(processor, sample) for sample in samples]
    encoded = _encode(processor, samples, rendered, opened)
    offsets = encoded.pop("offset_mapping")
    replaced = encoded.pop("text_replacement_offsets", [[] for _ in samples])
    _check_length(processor, samples, encoded["attention_mask"])
    roles = torch.full(encoded["input_ids"].shape, NO_ROLE, dtype=torch.int8)
    for row, sample in enumerate(samples):
        shift = sum(_grown(item) for item in replaced[row] if item["span"][0] < rendered[row].start)
        _label(roles[row], offsets[row], sample, rendered[row].start + shift)
    roles[encoded["attention_mask"] == 0] = NO_ROLE
    roles[encoded["input_ids"] == processor.image_token_id] = NO_ROLE
    spans = Spans(encoded["input_ids"], roles, tuple(sample.sample_id for sample in samples))
    if device is None:
        return encoded, spans
    return encoded.to(device), spans.to(device)


def _open_all(samples: Sequence[Sample]) -> list[list[Image.Image]]:
    opened = []
    for sample in samples:
        try:
            opened.append([open_image(ref) for ref in sample.images])
        except UserError as error:
            raise UserError(f"sample {sample.sample_id!r}: {error}") from error
    return opened


def _check_counts(samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]]) -> list[list[Image.Image]]:
    if len(images) != len(samples):
        raise UserError(f"expected images for {len(samples)} samples; got {len(images)} lists of images")
    for sample, given in zip(samples, images, strict=True):
        if len(given) != len(sample.images):
            raise UserError(f"sample {sample.sample_id!r} has {len(sample.images)} images; got {len(given)}")
    return [list(given) for given in images]


def render(processor: Any, sample: Sample) -> Rendered:
    """The prompt of one sample in the processor's chat template, up to where the answer begins.

    Raises:
        UserError: the text holds the image token, or the template changes the text or has no room for the images.
    """
    image_token = processor.image_token
    if image_token in sample.prompt or PLACEHOLDER in sample.prompt:
        raise UserError(
            f"sample {sample.sample_id!r}: its text contains {image_token!r}, which stands for an image; remove it"
        )
    text = _template(processor, sample, sample.prompt)
    frame = _template(processor, sample, PLACEHOLDER)
    if text.count(image_token) != len(sample.images):
        raise UserError(
            f"sample {sample.sample_id!r} has {len(sample.images)} images; the chat template made room for "
            f"{text.count(image_token)}: use another template"
        )
    start = frame.find(PLACEHOLDER)
    if text[start : start + len(sample.prompt)] == sample.prompt:
        return Rendered(text, start)
    # a template may strip the text; the segments then begin where the stripped text would have begun
    lead = len(sample.prompt) - len(sample.prompt.lstrip())
    if not text[start:].startswith(sample.prompt.strip()):
        raise UserError(
            f"sample {sample.sample_id!r}: the chat template changes the text, so its parts cannot be found; "
            "use another template"
        )
    return Rendered(text, start - lead)


def _template(processor: Any, sample: Sample, text: str) -> str:
    if getattr(processor, "chat_template", None) is None:
        return f"USER: {(processor.image_token + chr(10)) * len(sample.images)}{text} ASSISTANT:"
    content: list[dict[str, str]] = [{"type": "image"} for _ in sample.images]
    content.append({"type": "text", "text": text})
    message = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


def _encode(
    processor: Any, samples: Sequence[Sample], rendered: Sequence[Rendered], images: Sequence[Sequence[Image.Image]]
) -> BatchFeature:
    flat = [image for group in images for image in group]
    bos = processor.tokenizer.bos_token
    has_bos = bos is not None and rendered[0].text.startswith(bos)
    return processor(
        text=[item.text for item in rendered],
        images=flat or None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        return_offsets_mapping=True,
        return_text_replacement_offsets=True,
        **({"add_special_tokens": False} if has_bos else {}),
    )


def _check_length(processor: Any, samples: Sequence[Sample], attention_mask: Tensor) -> None:
    limit = processor.tokenizer.model_max_length
    for sample, length in zip(samples, attention_mask.sum(dim=1).tolist(), strict=True):
        if length > limit:
            raise UserError(
                f"sample {sample.sample_id!r} makes a prompt of {length} tokens; the model takes {limit}: "
                "shorten its text or use fewer images"
            )


def _grown(item: dict[str, Any]) -> int:
    """Characters that one image placeholder gained when it was written out."""
    old, new = item["span"], item["new_span"]
    return int((new[1] - new[0]) - (old[1] - old[0]))


def _label(roles: Tensor, offsets: Tensor, sample: Sample, start: int) -> None:
    """Write the role of every token of one row, by the segment that its last character falls into."""
    bounds = [start]
    for segment in sample.segments:
        bounds.append(bounds[-1] + len(segment.text))
    template = ROLE_CODES[Role.TEMPLATE]
    codes = torch.tensor([template, *(ROLE_CODES[segment.role] for segment in sample.segments), template])
    # a token may begin with the space before its word, so its last character says where it belongs
    last = offsets[:, 1] - 1
    place = torch.bucketize(last, torch.tensor(bounds), right=True)
    roles.copy_(codes[place].to(roles.dtype))
