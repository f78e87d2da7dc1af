"""Processors for images and text alone, where transformers' own insist on parts that need torchvision or num2words.

All video processors of transformers need torchvision, which the package does without; and videos are not pruned. Each
class saves itself under the name of the class that it stands for, so that what it wrote loads anywhere.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    InternVLProcessor,
    LlavaOnevisionProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.processing_utils import ProcessorMixin


class _ImagesOnly:
    """Mixed into a processor: without the attribute, neither loading nor saving asks for a video processor."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts of the processor, less the one for videos."""
        return [name for name in super().get_attributes() if name != "video_processor"]  # type: ignore[misc]

    def __init_subclass__(cls, saved_as: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__name__ = saved_as  # written into processor_config.json; pickle goes by __qualname__, which stays


class ImagesOnlyQwen2VL(_ImagesOnly, Qwen2VLProcessor, saved_as="Qwen2VLProcessor"):
    """For Qwen2-VL."""


class ImagesOnlyQwen25VL(_ImagesOnly, Qwen2_5_VLProcessor, saved_as="Qwen2_5_VLProcessor"):
    """For Qwen2.5-VL."""


class ImagesOnlyQwen3VL(_ImagesOnly, Qwen3VLProcessor, saved_as="Qwen3VLProcessor"):
    """For Qwen3-VL."""


class ImagesOnlyInternVL(_ImagesOnly, InternVLProcessor, saved_as="InternVLProcessor"):
    """For InternVL."""


class ImagesOnlyLlavaOnevision(_ImagesOnly, LlavaOnevisionProcessor, saved_as="LlavaOnevisionProcessor"):
    """For LLaVA-OneVision."""


class ImagesOnlySmolVLM(_ImagesOnly, SmolVLMProcessor, saved_as="SmolVLMProcessor"):
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
