"""The timing pass: who is measured when, and numbers that can be known without a clock."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_simignore.engine import efficiency as module
from lit_simignore.engine.efficiency import TimingPlan, measure_efficiency
from lit_simignore.engine.generation import Prompts
from lit_simignore.metrics.flops import DecoderShape, prefill_flops
from lit_simignore.pruning.base import Features, ScorePruner
from lit_simignore.types import Method, Role, Sample, Segment, UserError
from tests.engine.toys import BASELINE, RANDOM, STRIDE, Toy, model_and_processor

KEYS = {
    "batch_size", "vision_ms", "prefill_ms", "prefill_ms_p10", "prefill_ms_p90", "decode_tokens_per_s", "pruner_ms",
    "kv_cache_mib", "peak_memory_mib", "speedup_prefill", "decode_tokens_per_s_p10", "decode_tokens_per_s_p90",
    "counted_prefill_tflops",
}  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Slow(ScorePruner):
    """Takes ten milliseconds per sample."""

    needs: ClassVar[frozenset[Any]] = frozenset()

    def score(self, features: Features) -> Tensor:
        time.sleep(0.01)
        return torch.arange(features.visual.shape[0]).float()


@dataclasses.dataclass(kw_only=True)
class Broken(Slow):
    """Fails in the model."""

    def score(self, features: Features) -> Tensor:
        raise RuntimeError("no kernel")


def measured(*methods: Method, samples: Any = None, **plan: Any) -> dict[str, Any]:
    model, processor = model_and_processor()
    chosen = TimingPlan(**{"samples": 4, "batch_size": 2, "repeats": 2, "decode_tokens": 3, **plan})
    return measure_efficiency(model, processor, Toy().load() if samples is None else samples, methods, chosen)


def test_every_method_gets_every_number() -> None:
    found = measured(BASELINE, STRIDE)
    assert {key: found[key] for key in ("batch_size", "samples", "repeats", "decode_tokens")} == {
        "batch_size": 2, "samples": 4, "repeats": 2, "decode_tokens": 3,
    }  # fmt: skip
    for row in found["methods"].values():
        assert set(row) == KEYS
        assert row["prefill_ms_p10"] <= row["prefill_ms"] <= row["prefill_ms_p90"]
        assert 0 < row["decode_tokens_per_s_p10"] <= row["decode_tokens_per_s"] <= row["decode_tokens_per_s_p90"]
        assert row["peak_memory_mib"] is None  # a CPU does not say
    assert found["methods"]["baseline"]["speedup_prefill"] == 1.0
    assert found["methods"]["baseline"]["pruner_ms"] == 0.0


def test_the_cache_is_as_large_as_the_prompt_that_was_left() -> None:
    (sample,) = Toy(size=1).load()
    model, processor = model_and_processor()
    length = len(processor.tokenizer(f"USER: <image> {sample.prompt} ASSISTANT:")["input_ids"]) - 1
    per_position = 4 * 2 * 2 * 16 * 4 / 2**20  # layers, keys and values, kv heads, width of a head, bytes
    found = measured(BASELINE, STRIDE, samples=[sample])["methods"]
    assert found["baseline"]["kv_cache_mib"] == pytest.approx((length + 16) * per_position)
    assert found["stride"]["kv_cache_mib"] == pytest.approx((length + 4) * per_position)


def test_counted_operations_are_those_of_a_plain_forward_and_the_formula_explains_what_pruning_saves() -> None:
    (sample,) = Toy(size=1).load()
    model, processor = model_and_processor()
    prompts = module._batches(model, processor, [sample], TimingPlan())[0]
    # Multiplied out without a kernel of its own, as PyTorch counts it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**prompts.inputs, logits_to_keep=1)
    found = measured(BASELINE, STRIDE, samples=[sample])["methods"]
    assert found["baseline"]["counted_prefill_tflops"] * 1e12 == pytest.approx(counter.get_total_flops())
    shape = DecoderShape.from_config(model.config)
    before, after = ([length] * shape.num_layers for length in (prompts.width, prompts.width - 12))
    saved = found["baseline"]["counted_prefill_tflops"] - found["stride"]["counted_prefill_tflops"]
    assert saved * 1e12 == pytest.approx(prefill_flops(shape, before) - prefill_flops(shape, after), rel=1e-6)


def test_what_cannot_be_counted_is_still_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> float:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(module, "_counted_tflops", broken)
    with pytest.warns(UserWarning, match="operations of baseline could not be counted: RuntimeError: no such kernel"):
        found = measured(BASELINE)["methods"]["baseline"]
    assert found["counted_prefill_tflops"] is None and found["prefill_ms"] > 0


def test_a_slow_rule_is_blamed_for_its_own_time() -> None:
    found = measured(BASELINE, Method("slow", (Slow(num_keep=4),)))["methods"]["slow"]
    assert found["pruner_ms"] >= 10
    assert found["prefill_ms"] >= 10
    assert found["speedup_prefill"] < 1


def test_timing_leaves_the_rule_as_it_was() -> None:
    rule = Slow(num_keep=4)
    timed, spent = module._timed_parts((rule,), torch.device("cpu"))
    (copy,) = timed
    assert isinstance(copy, Slow)
    assert type(copy).__name__ == "Slow"
    assert type(rule) is Slow
    kept = copy.select(torch.ones(6, 2), torch.ones(1, 2))
    assert kept.tolist() == rule.select(torch.ones(6, 2), torch.ones(1, 2)).tolist()
    assert len(spent) == 1
    copy.choose_batch([Features(visual=torch.ones(6, 2), text=torch.ones(1, 2))] * 3)
    assert len(spent) == 2  # once, though it asks for every sample


def test_methods_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[int, int, str]] = []

    def note(model: Any, processor: Any, prompts: Prompts, method: Method, plan: Any, timings: Any, turn: Any) -> None:
        turns.append((*turn, method.name))
        timings.prefill_ms[turn] = 1.0 if method is BASELINE else 0.5

    monkeypatch.setattr(module, "_time", note)
    found = measured(BASELINE, STRIDE, RANDOM, samples=Toy(size=5).load())
    assert sorted(turns) == sorted((r, b, m.name) for r in (1, 2) for b in (0, 1) for m in (BASELINE, STRIDE, RANDOM))
    assert [name for _, _, name in turns[:6]] == ["random", "baseline", "stride", "baseline", "stride", "random"]
    assert found["methods"]["stride"]["speedup_prefill"] == 2.0


def test_a_method_that_cannot_be_timed_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="broken could not be timed: RuntimeError: no kernel"):
        found = measured(BASELINE, Method("broken", (Broken(num_keep=4),)))
    assert list(found["methods"]) == ["baseline"]


def test_samples_that_cannot_be_opened_are_not_timed() -> None:
    def picture() -> None:
        raise OSError("gone")

    bad = Sample("bad", (Segment("?", Role.QUESTION),), images=(picture,))  # type: ignore[arg-type]
    assert measured(BASELINE, samples=[bad, *Toy(size=3).load()])["samples"] == 2
    assert measured(BASELINE, samples=[bad, *Toy(size=1).load()])["batch_size"] == 1
    with pytest.raises(UserError, match="efficiency.samples=0"):
        measured(BASELINE, samples=[bad])
