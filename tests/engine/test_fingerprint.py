"""What must make two runs different does, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_simignore.engine import fingerprint as module
from lit_simignore.engine.fingerprint import differences, digest, method_identity, plain, weights_digest
from lit_simignore.pruning.stride import Stride
from lit_simignore.types import Method, UserError
from tests.engine.toys import STRIDE, Toy, identity
from tests.tiny_models import tiny_batch, tiny_llava, tiny_processor


def changed(**changes: Any) -> list[str]:
    """Top-level parts of the run that differ from the plain one."""
    return [line.split(":")[0] for line in differences(identity().run, identity(**changes).run)]


def test_the_same_thing_made_twice_is_the_same() -> None:
    assert changed() == []
    used = tiny_processor()
    tiny_batch(processor=used)  # leaves padding settings in the tokenizer
    assert changed(processor=used) == []


def test_every_part_that_changes_an_answer_counts() -> None:
    nudged = tiny_llava()
    with torch.no_grad():
        nudged.lm_head.weight[0, 0] += 1e-3
    assert changed(model=nudged) == ["model.weights"]
    assert changed(model=tiny_llava(rope_parameters={"rope_type": "default", "rope_theta": 5000.0})) == ["model.config"]
    assert changed(model=tiny_llava(attention="eager")) == ["attention"]
    assert changed(processor=tiny_processor("{{ messages }}")) == ["prompt.chat_template"]
    assert changed(max_new_tokens=4) == ["decoding.max_new_tokens"]
    assert changed(model_name="other") == ["model.name"]
    penalised = tiny_llava()
    penalised.generation_config.repetition_penalty = 1.1
    assert changed(model=penalised) == ["decoding.checkpoint.repetition_penalty"]

    @dataclasses.dataclass(kw_only=True)
    class Other(Toy):
        def identity(self) -> dict[str, object]:
            return {"revision": "2"}

    assert set(changed(benchmark=Other())) == {"benchmark.name", "benchmark.revision"}


def test_the_batch_size_counts_only_where_arithmetic_is_rough() -> None:
    assert changed(batch_size=9) == []
    half = tiny_llava().bfloat16()
    one, other = (identity(model=half, batch_size=size).run for size in (4, 9))
    assert differences(one, other) == ["batches.size: 4 -> 9"]
    assert "batches" in identity(precision="bf16-mixed").run


def test_large_models_are_told_apart_by_samples_of_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 0)
    monkeypatch.setattr(module, "_SAMPLED", 16)
    base = weights_digest(tiny_llava())
    assert weights_digest(tiny_llava()) == base
    trained = tiny_llava()
    with torch.no_grad():
        trained.lm_head.weight += 1e-3
    assert weights_digest(trained) != base


def test_a_method_is_its_parts_and_their_fields() -> None:
    one = method_identity(STRIDE)
    assert one["parts"][0]["class"] == "Stride"
    assert one["parts"][0]["num_keep"] == 4
    assert method_identity(Method("other name", STRIDE.parts)) == one
    assert differences(one, method_identity(Method("stride", (Stride(num_keep=5),)))) == ["parts.num_keep: 4 -> 5"]


def test_plain_data_stay_as_they_are_and_functions_are_refused(tmp_path: Path) -> None:
    value = {"a": (1, 2.5), "b": {"y", "x"}, "c": tmp_path, "d": None, "e": torch.float32}
    assert plain(value) == {"a": [1, 2.5], "b": ["x", "y"], "c": str(tmp_path), "d": None, "e": "torch.float32"}
    assert digest(plain(torch.ones(3))) != digest(plain(torch.zeros(3)))
    with pytest.raises(UserError, match="got <function"):
        plain([test_a_method_is_its_parts_and_their_fields])
    with pytest.raises(UserError, match="must be a dataclass"):
        method_identity(Method("odd", (object(),)))
