"""The tiny LLaVA and the batch that most tests of surgery share; a file that needs another one defines its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava


@pytest.fixture(scope="module")
def model():
    """With scaled dot-product attention."""
    return tiny_llava()


@pytest.fixture(scope="module")
def sdpa():
    """The same, where ``model`` is one of several."""
    return tiny_llava()


@pytest.fixture(scope="module")
def batch():
    """Three prompts of different lengths, one image each, left-padded."""
    return tiny_batch()


@pytest.fixture(scope="module")
def even():
    """Prompts of one length: nothing calls for a mask."""
    return tiny_batch(questions=QUESTIONS[:1])


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without the warning that there are no spans."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attach.. got no spans")
        yield
