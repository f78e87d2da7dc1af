"""What a pruning rule may look at, and the words with which it says what it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from lit_simignore.types import UserError

TEXT_ROWS = ("after_image", "prompt", "question", "options")
"""What a rule's field ``text`` may ask for: every token of the prompt behind the last visual one, template included, or
the prompt's spans by role. Never the answer."""


class Need(str, Enum):
    """Something beyond the projected visual tokens that a rule reads. A family declares which of these it offers."""

    TEXT = "text rows"
    GRID = "a patch grid"
    RESIZED_IMAGE = "a vision tower of one resolution that can be shown a smaller picture"
    VISION_ATTENTION = "attention of the vision tower on every visual token's patches"
    VISION_KEYS = "keys of the vision tower"
    VISION_HIDDEN = "unprojected vision features"
    VISION_LAST_QK = "a class token in the vision tower's last layer, and one patch per visual token"
    PROJECTOR = "a projector that maps every vision feature by itself"
    TEXT_TOWER = "a text tower that matches the vision tower"
    QUERY_ATTENTION = "attention of the last prompt token in the previous decoder layer"
    OWN_ATTENTION = "attention that the last prompt token would pay in the stage's own decoder layer"
    TEXT_ATTENTION = "attention of the text tokens in the previous decoder layer"
    LAYER_HIDDEN = "hidden states of a decoder layer"
    LAYER_KEYS = "keys of a decoder layer"
    FINAL_NORM = "hidden states passed through the decoder's final norm"
    INPUT_EMBEDDINGS = "the rows that entered the first decoder layer"
    ROPE = "rotary position embeddings"


@dataclass(slots=True, kw_only=True)
class Features:
    """Everything that a rule may look at for ONE sample. Images are concatenated in prompt order.

    Only what the rule's ``needs`` name has to be filled (the comment behind each field says which need that is).
    ``M`` is the number of images, ``N`` the number of visual tokens that entered decoder layer 0, ``H`` query heads,
    ``G`` key heads.

    Args:
        visual: ``(I, D)`` visual tokens: after the projector, or hidden states that enter decoder layer ``layer_idx``.
        text: ``(T, D)`` rows of the scored text tokens, in the same space as ``visual``, in prompt order.
        key: identity of the sample; seeded rules derive their random state from it, so that a result does not
            depend on the batch that a sample sits in.
        grids: rows and columns of visual tokens for every image; empty where the family has no grid.
        query_attention: ``(H, I)`` attention probabilities of the last prompt token on the visual tokens, per head,
            in the layer before the stage. Like all attention here: softmax over every position the token sees.
        tiles: ``(I,)`` int64 number of the picture (an image, or a crop or tile of it that the tower encodes by itself)
            that a token shows, from 0 in prompt order; -1 for tokens that show nothing, such as ends of rows.
        tile_places: ``(I,)`` int64 row-major place in the picture's grid of visual tokens; -1 likewise.
        tile_grid: rows and columns of visual tokens that a whole picture has.
        vision_attention: ``(H, I)`` attention probabilities that visual tokens get in the vision tower, in the layer
            that the features come from: from the class token (softmax over class token and patches); in towers without
            one, averaged over all patches of the picture. A token of several patches gets the sum.
        vision_keys: ``(H, I, d)`` keys of the vision tower's feature layer, biases included; of several patches side by
            side, or their mean where the model averages patches.
        vision_hidden: ``(I, C)`` unprojected vision features, of several patches likewise.
        vision_cls_hidden: ``(M, C)`` the class token's row of the same layer, M the number of pictures.
        vision_last_keys: ``(I, C)`` keys of the vision tower's last layer, heads side by side.
        vision_last_cls_key: ``(M, C)`` the class token's key there.
        vision_last_cls_query: ``(M, C)`` the class token's query there, unscaled.
        project: the projector, ``(n, C)`` rows to ``(n, D)`` rows, each by itself; keeps gradients.
        text_tower: ``(S, E)`` text-tower embeddings of the scored text's segments.
        joint_visual: ``(I, E)`` patch features in the space of ``text_tower``.
        own_attention: as ``query_attention``, but what layer ``layer_idx`` itself would compute from ``visual``
            before anything is dropped.
        text_attention: ``(H, T, I)`` attention probabilities of the text tokens in the layer before the stage.
        layer_keys: ``(G, I, d)`` keys (after rotation) of the visual tokens in the layer before the stage.
        text_keys: ``(G, T, d)`` those of the text tokens.
        normed_visual: ``(I, D)`` ``visual`` through the decoder's final norm.
        normed_text: ``(T, D)`` ``text`` through the decoder's final norm.
        input_visual: ``(N, D)`` visual tokens as they entered decoder layer 0, none of them dropped yet.
        input_text: ``(T, D)`` text rows as they entered decoder layer 0.
        visual_rope: ``(2, I, d)`` cosine and sine with which the stage's layers rotate the visual tokens.
        text_rope: ``(2, T, d)`` those of the text tokens.
        visual_columns: ``(I,)`` int64 place of every visual token in the sample's own unpadded, unpruned prompt.
        text_columns: ``(T,)`` int64 those of the text tokens.
        num_input: ``N``; ``None`` where no earlier stage dropped anything.
        extra: further tensors by name, for methods with needs of their own.
    """

    visual: Tensor
    text: Tensor  # TEXT
    key: str = ""
    grids: tuple[tuple[int, int], ...] = ()  # GRID
    query_attention: Tensor | None = None  # QUERY_ATTENTION
    tiles: Tensor | None = None  # whatever the vision tower is asked for
    tile_places: Tensor | None = None  # RESIZED_IMAGE
    tile_grid: tuple[int, int] | None = None  # RESIZED_IMAGE
    vision_attention: Tensor | None = None  # VISION_ATTENTION
    vision_keys: Tensor | None = None  # VISION_KEYS
    vision_hidden: Tensor | None = None  # VISION_HIDDEN
    vision_cls_hidden: Tensor | None = None  # VISION_HIDDEN, where the tower has a class token
    vision_last_keys: Tensor | None = None  # VISION_LAST_QK
    vision_last_cls_key: Tensor | None = None  # VISION_LAST_QK
    vision_last_cls_query: Tensor | None = None  # VISION_LAST_QK
    project: Callable[[Tensor], Tensor] | None = None  # PROJECTOR
    text_tower: Tensor | None = None  # TEXT_TOWER
    joint_visual: Tensor | None = None  # TEXT_TOWER
    own_attention: Tensor | None = None  # OWN_ATTENTION
    text_attention: Tensor | None = None  # TEXT_ATTENTION
    layer_keys: Tensor | None = None  # LAYER_KEYS
    text_keys: Tensor | None = None  # LAYER_KEYS
    normed_visual: Tensor | None = None  # FINAL_NORM
    normed_text: Tensor | None = None  # FINAL_NORM
    input_visual: Tensor | None = None  # INPUT_EMBEDDINGS
    input_text: Tensor | None = None  # INPUT_EMBEDDINGS
    visual_rope: Tensor | None = None  # ROPE
    text_rope: Tensor | None = None  # ROPE
    visual_columns: Tensor | None = None  # always, inside a model
    text_columns: Tensor | None = None  # always, inside a model
    num_input: int | None = None  # always, inside a model
    extra: dict[str, Tensor] | None = None


def needed(method: object, features: Features, name: str) -> Tensor:
    """The tensor ``features.name``.

    Raises:
        UserError: it was not given.
    """
    value: Tensor | None = getattr(features, name)
    if value is None:
        raise UserError(
            f"{type(method).__name__.strip('_')} reads Features.{name}, which was not given: "
            "attach it to a model of a family that offers what the method needs, or fill the field yourself"
        )
    return value


def needed_projector(method: object, features: Features) -> Callable[[Tensor], Tensor]:
    """``features.project``, or a :class:`UserError` where it was not given."""
    if features.project is None:
        raise UserError(
            f"{type(method).__name__} merges unprojected vision features, so it needs {Need.PROJECTOR.value} as "
            "Features.project; none was given"
        )
    return features.project
