"""What the bundled model's vocabulary knows, and the scenes that are offered with questions in it."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.explore.examples import NUM_SCENES, draw_examples
from lit_simignore.explore.words import all_words, unknown_words
from lit_simignore.shapes.vocabulary import SPECIAL_TOKENS, WORDS
from lit_simignore.surgery.load import ASSETS
from tests.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "pico")


def test_unknown_words_are_named_once(tokenizer) -> None:
    assert unknown_words(tokenizer, "Is there a dragon or a red dragon, in a castle?") == ("dragon", "castle")
    assert unknown_words(tokenizer, "Is there a red circle in the image?") == ()


def test_a_tokenizer_without_an_unknown_token_knows_everything() -> None:
    class Bytes:
        unk_token_id = None

    assert unknown_words(Bytes(), "dragon") == ()


def test_a_small_vocabulary_is_listed_whole(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(all_words(tokenizer)) == set(WORDS) - set(SPECIAL_TOKENS)
    monkeypatch.setattr("lit_simignore.explore.words.SMALL_VOCABULARY", 3)
    assert all_words(tiny_tokenizer()) == ()


def test_examples_ask_in_words_that_the_model_knows(tokenizer) -> None:
    examples = draw_examples()
    assert len(examples) == NUM_SCENES and len({example.key for example in examples}) == NUM_SCENES
    for example in examples:
        assert len(example.questions) >= 5
        for question in example.questions:
            assert unknown_words(tokenizer, " ".join([question.text, *question.options])) == ()
            assert not question.options or question.answer in "ABCDE"[: len(question.options)]


def test_examples_are_the_same_every_time_and_not_those_of_the_benchmark() -> None:
    pictures = [np.asarray(example.image).tobytes() for example in draw_examples()]
    assert pictures == [np.asarray(example.image).tobytes() for example in draw_examples()]
    asked = ShapesQA(num_scenes=5).load()
    assert not set(pictures) & {np.asarray(sample.images[0]()).tobytes() for sample in asked}  # type: ignore[operator]
