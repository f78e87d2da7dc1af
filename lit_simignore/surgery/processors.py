"""Processors that stand in for transformers' own where these ask for too much or hide too much.

Video processors need torchvision (SmolVLM's also num2words), which the package does without, and videos are not pruned:
the parts for videos are left out. Some processors rewrite the text, or cannot tell which image belongs to which of
several prompts: here the template writes the whole prompt, and images are told apart by counting their tokens. Each
class saves itself under the name of the class that it stands for, so that what it wrote loads anywhere.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from torch import Tensor, cat, tensor
from transformers import (
    BatchFeature,
    Gemma3Processor,
    InstructBlipProcessor,
    InternVLProcessor,
    LlavaOnevisionProcessor,
    PaliGemmaProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.processing_utils import ProcessorMixin

from lit_simignore.types import UserError


class _StandIn:
    """Mixed into a processor: its files name the class that it stands for."""

    def __init_subclass__(cls, saved_as: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if saved_as is not None:
            cls.__name__ = saved_as  # written into processor_config.json; pickle goes by __qualname__, which stays


class _ImagesOnly(_StandIn):
    """Mixed into a processor: without the attribute, neither loading nor saving asks for a video processor."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts of the processor, less the one for videos."""
        return [name for name in super().get_attributes() if name != "video_processor"]  # type: ignore[misc]


class _Grouped(_StandIn):
    """Mixed into a processor that takes a flat list of images for those of a single prompt."""

    image_token: str

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Give every prompt as many images of a flat list as it has image tokens."""
        if isinstance(images, list) and isinstance(text, list) and not any(isinstance(item, list) for item in images):
            counts = [sample.count(self.image_token) for sample in text]
            if sum(counts) == len(images):
                rest = iter(images)
                images = [list(islice(rest, count)) for count in counts]
        return super().prepare_inputs_layout(images=images, text=text, **kwargs)  # type: ignore[misc]


class ImagesOnlyQwen2VL(_ImagesOnly, Qwen2VLProcessor, saved_as="Qwen2VLProcessor"):
    """For Qwen2-VL."""


class ImagesOnlyQwen25VL(_ImagesOnly, Qwen2_5_VLProcessor, saved_as="Qwen2_5_VLProcessor"):
    """For Qwen2.5-VL."""


class ImagesOnlyQwen3VL(_ImagesOnly, Qwen3VLProcessor, saved_as="Qwen3VLProcessor"):
    """For Qwen3-VL."""


class ImagesOnlyInternVL(_ImagesOnly, InternVLProcessor, saved_as="InternVLProcessor"):
    """For InternVL."""


class ImagesOnlyLlavaOnevision(_Grouped, _ImagesOnly, LlavaOnevisionProcessor, saved_as="LlavaOnevisionProcessor"):
    """For LLaVA-OneVision, which cuts an image into tiles only where it is the only one of its prompt."""


class ImagesOnlySmolVLM(_Grouped, _ImagesOnly, SmolVLMProcessor, saved_as="SmolVLMProcessor"):
    """For SmolVLM, whose own constructor and chat template also ask for settings of the video processor."""

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        video_processor: Any = None,
        image_seq_len: int = 169,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.end_of_utterance_token = getattr(tokenizer, "end_of_utterance_token", "<end_of_utterance>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.video_token = getattr(tokenizer, "video_token", "<video>")
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """As every processor does it."""
        return ProcessorMixin.apply_chat_template(self, *args, **kwargs)


class ImagesOnlyPixtral(_ImagesOnly, ProcessorMixin, saved_as="PixtralProcessor"):
    """For Mistral 3: transformers' class cannot even be imported without torchvision.

    Args:
        image_processor: resizes to whole patches and reports ``image_sizes``.
        tokenizer: knows the three tokens.
        patch_size: of the tower, in pixels.
        spatial_merge_size: patches per side of one visual token.
        chat_template: as everywhere.
        image_token: stands for an image in the text and for every visual token in the prompt.
        image_break_token: ends a row of visual tokens.
        image_end_token: ends the last row.
        kwargs: keys of other versions' files, ignored.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token, self.image_break_token, self.image_end_token = image_token, image_break_token, image_end_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    def _process_images(self, images: Any, **options: Any) -> Any:
        options["patch_size"] = self.patch_size * self.spatial_merge_size
        return super()._process_images(images, **options)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        """One row of tokens after the other, each ended by its own token."""
        side = self.patch_size * self.spatial_merge_size
        height, width = (int(size) for size in image_inputs["image_sizes"][image_idx])
        row = self.image_token * (width // side)
        return self.image_break_token.join([row] * (height // side)) + self.image_end_token

    @property
    def model_input_names(self) -> list[str]:
        """What the model's forward takes."""
        return [*super().model_input_names, "image_sizes"]


class GroupedGemma3(_Grouped, Gemma3Processor, saved_as="Gemma3Processor"):
    """For Gemma 3."""


class TemplatedPaliGemma(_StandIn, PaliGemmaProcessor, saved_as="PaliGemmaProcessor"):
    """For PaliGemma: a text that has its beginning-of-sequence token already is taken as it is.

    Transformers' class puts that token and a newline into every text, which moves all offsets; it also returns labels
    that ignore everything, and refuses a batch without images.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """As the class it stands for, less the labels where there is nothing to learn."""
        encoded = super().__call__(*args, **kwargs)
        if kwargs.get("suffix") is None:
            encoded.pop("labels", None)
        return encoded

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Leave whole prompts alone."""
        whole = isinstance(text, list) and all(self.tokenizer.bos_token in sample for sample in text)
        layout = ProcessorMixin if whole else PaliGemmaProcessor
        return layout.prepare_inputs_layout(self, images=images, text=text, **kwargs)

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Prompts without image may make a batch of their own."""
        ProcessorMixin.validate_inputs(self, images=images, text=text, **kwargs)


class TemplatedInstructBlip(_StandIn, InstructBlipProcessor, saved_as="InstructBlipProcessor"):
    """For InstructBLIP: the image token, written once at the start of a text, shows that the text has an image.

    Transformers' class puts visual tokens in front without a word, and in front of the padding too. Here padding comes
    first, then one image token per query, then the beginning-of-sequence token and the text. Both language model and
    Q-Former read the text.
    """

    image_token: str

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        qformer_tokenizer: Any,
        num_query_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, qformer_tokenizer, num_query_tokens, **kwargs)
        self.image_token = str(self.image_token)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Tensors for prompts with one image each.

        Args:
            images: one per text.
            text: prompts that begin with the image token; where none has it, each gets it.
            options: ``return_offsets_mapping`` and ``return_text_replacement_offsets`` are heeded; padding is always
                on the left.

        Raises:
            UserError: a text without image, or with several.
        """
        texts = [text] if isinstance(text, str) else list(text or ())
        if not texts:
            return super().__call__(images=images, **options)
        if images is not None and not any(self.image_token in sample for sample in texts):
            texts = [self.image_token + sample for sample in texts]
        if any(sample.count(self.image_token) != 1 or not sample.startswith(self.image_token) for sample in texts):
            raise UserError("InstructBLIP takes exactly one image per sample, in front of the text; leave others out")
        plain = [sample.removeprefix(self.image_token) for sample in texts]
        encoded, offsets = self._with_queries(plain)
        asked = self.qformer_tokenizer(plain, padding=True, return_tensors="pt")
        encoded |= {f"qformer_{name}": asked[name] for name in ("input_ids", "attention_mask")}
        encoded["pixel_values"] = self.image_processor(images, return_tensors="pt")["pixel_values"]
        if options.get("return_offsets_mapping"):
            encoded["offset_mapping"] = offsets
        if options.get("return_text_replacement_offsets"):
            one, all_ = len(self.image_token), len(self.image_token) * self.num_query_tokens
            encoded["text_replacement_offsets"] = [[{"span": (0, one), "new_span": (0, all_)}] for _ in texts]
        return BatchFeature(encoded)

    def _with_queries(self, texts: list[str]) -> tuple[dict[str, Any], Tensor]:
        """Padded ids and mask, and ``(B, L, 2)`` offsets in the text with one image token per query in front."""
        number, width = self.num_query_tokens, len(self.image_token)
        rows = self.tokenizer(texts, return_offsets_mapping=True)
        ids = [[self.image_token_id] * number + row for row in rows["input_ids"]]
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        queries = tensor([(place * width, (place + 1) * width) for place in range(number)])
        offsets = padded["input_ids"].new_zeros(*padded["input_ids"].shape, 2)
        for row, found in enumerate(rows["offset_mapping"]):
            offsets[row, -len(ids[row]) :] = cat([queries, tensor(found) + number * width])
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}, offsets
