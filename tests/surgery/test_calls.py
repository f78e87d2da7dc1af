"""Reading the arguments of hooked calls, whatever release of transformers made them."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from lit_simignore.surgery.calls import cache_in, cache_name
from tests.tiny_models import tiny_llava


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_found_under_the_name_of_either_release(name):
    held = object()
    assert cache_in({"input_ids": 1, name: held}) is held
    assert cache_in({"cache": None, "past_key_values": None} | {name: held}) is held


def test_an_output_is_not_asked_by_a_name_that_transformers_warns_about(monkeypatch):
    def asked(output, name, default=None):
        raise AssertionError(f"asked for {name!r}")

    model = tiny_llava()
    with torch.no_grad():
        output = model(torch.tensor([[1, 9, 10]]))
    for method in ("get", "__getitem__", "__contains__"):
        monkeypatch.setattr(type(output), method, asked, raising=False)
    assert isinstance(cache_in(output), DynamicCache)


def test_no_cache_is_none():
    assert cache_in({"input_ids": 1, "cache": None}) is None


def test_a_function_is_given_the_cache_by_the_name_that_it_takes():
    def older(hidden, past_key_values=None):
        pass

    def newer(hidden, cache=None):
        pass

    assert (cache_name(older), cache_name(newer)) == ("past_key_values", "cache")
