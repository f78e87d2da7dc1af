"""Every word of the generated world. The bundled model's tokenizer knows these and nothing else."""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (50, 210, 220),
    "white": (245, 245, 245),
}
"""Colour names with their RGB value."""

COLOR_NAMES = tuple(COLORS)
SHAPE_NAMES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
LETTERS = ("A", "B", "C", "D", "E")
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
DIRECTIONS = ("left of", "right of", "above", "below")

LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."
"""One token of the bundled tokenizer: spelling it out would cost a third of every training sequence."""

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(5)

WORDS: tuple[str, ...] = (
    *SPECIAL_TOKENS,
    LETTER_INSTRUCTION,
    *("USER:", "ASSISTANT:", "Context:", "Question:", "Options:", "N/A"),
    *COLOR_NAMES,
    *SHAPE_NAMES,
    *LETTERS,
    *(f"({letter})" for letter in LETTERS),
    *(str(digit) for digit in range(10)),
    *("top", "bottom", "left", "right", "above", "below"),
    *("yes", "no", "Yes", "No", "Is", "is", "There", "there", "a", "A.", "in", "the", "The", "image", "picture"),
    *("What", "what", "Which", "which", "Where", "where", "How", "how", "many", "are", "Are", "more", "same", "or"),
    *("color", "shape", "object", "objects", "of", "Describe", "and", "background", "?", ",", "."),
)
"""Index = token id."""

TOKEN_ID: dict[str, int] = {word: index for index, word in enumerate(WORDS)}


def object_name(pair: int) -> str:
    """``"red circle"`` for a pair id (colour index * number of shapes + shape index)."""
    return f"{COLOR_NAMES[pair // len(SHAPE_NAMES)]} {SHAPE_NAMES[pair % len(SHAPE_NAMES)]}"


NUM_PAIRS = len(COLOR_NAMES) * len(SHAPE_NAMES)
