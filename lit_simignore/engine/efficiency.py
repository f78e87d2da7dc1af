"""Measured cost: every method in turn on the same batches, apart from the answers that are scored.

Methods take turns within each batch, and the first turn goes round, so that a warming or throttling machine hurts
all alike; the first round is not counted. All times and memory except ``peak_memory_mib`` are per sample, at the
named batch size: a batch's value divided by its samples.
"""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm
from transformers import LogitsProcessor

from lit_simignore.data.collate import Opened, one_line, open_sample
from lit_simignore.engine.environment import device_name
from lit_simignore.engine.generation import Prompts, generate, prompts_of, synchronize
from lit_simignore.pruning.base import Pruner
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.calls import cache_in
from lit_simignore.types import Method, Sample, UserError

FACTS = ("batch_size", "samples", "repeats", "warm_up", "decode_tokens", "device")
"""What a measurement says about itself: samples of a call, samples, counted and uncounted rounds, tokens, hardware."""


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """What is measured.

    Args:
        samples: how many, taken from the front of the benchmark; rounded down to whole batches.
        batch_size: samples of one timed call.
        repeats: counted rounds over all batches.
        decode_tokens: tokens generated after the first one.
    """

    samples: int = 16
    batch_size: int = 1
    repeats: int = 3
    decode_tokens: int = 8


@dataclass(slots=True)
class _Timings:
    """Measurements of one method; the order of ``prefill_ms`` is that of rounds and batches."""

    prefill_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    decode_tokens_per_s: list[float] = field(default_factory=list)
    vision_ms: list[float] = field(default_factory=list)
    pruner_ms: list[float] = field(default_factory=list)
    kv_cache_mib: list[float] = field(default_factory=list)
    counted_tflops: list[float] = field(default_factory=list)
    peak_memory_mib: list[float] = field(default_factory=list)


class Stopwatch(LogitsProcessor):
    """Notes when the logits of every new token were ready."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        synchronize(self._device)
        self.times.append(time.perf_counter())
        return scores


def measure_efficiency(
    model: nn.Module,
    processor: Any,
    samples: Sequence[Sample],
    methods: Sequence[Method],
    plan: TimingPlan | None = None,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Time all methods.

    Args:
        model: on the device to measure.
        processor: the model's.
        samples: those whose images can be opened are used, from the front.
        methods: speed-ups are relative to the first of them without parts.
        plan: how much to measure.
        progress: show a progress bar.

    Returns:
        Facts about the measurement (:data:`FACTS`) and
        ``methods``: by name ``prefill_ms`` (median time from the call of ``generate`` to the first new token's logits,
        vision tower included) with ``prefill_ms_p10`` and ``_p90``, ``decode_tokens_per_s`` (of the whole batch, after
        the first token), ``vision_ms`` (vision tower and projector by themselves), ``pruner_ms`` (the rule's own
        arithmetic), ``counted_prefill_tflops`` (operations that PyTorch counts in the prefill, vision tower and rule
        included; attention kernels that it does not know, such as FlashAttention's own, are missing in it),
        ``kv_cache_mib`` (keys and values in the cache after the prefill), ``peak_memory_mib`` (of the
        device; null where it does not say), ``speedup_prefill`` (median of the ratios to the baseline on the same
        batch in the same round). A method that fails is left out with a warning.

    Raises:
        UserError: no sample can be opened.
    """
    plan = plan or TimingPlan()
    batches = _batches(model, processor, samples, plan)
    batch_size = len(batches[0].samples)
    timings: dict[str, _Timings] = defaultdict(_Timings)
    failed: set[str] = set()
    turns = [(round_, place) for round_ in range(plan.repeats + 1) for place in range(len(batches))]
    for number, (round_, place) in enumerate(tqdm(turns, desc="Timing", disable=not progress)):
        for method in _rotated(methods, number):
            if method.name in failed:
                continue
            run = _rehearse if round_ == 0 else _time
            try:
                run(model, processor, batches[place], method, plan, timings[method.name], (round_, place))
            # What cannot be timed must not take the answers with it.
            except Exception as error:
                failed.add(method.name)
                warnings.warn(f"{method.name} could not be timed: {one_line(error)}", stacklevel=2)
    baseline = next((timings[entry.name] for entry in methods if not entry.parts and entry.name not in failed), None)
    measured = {entry.name: _described(timings[entry.name], baseline) for entry in methods if entry.name not in failed}
    return {
        "batch_size": batch_size,
        "samples": batch_size * len(batches),
        "repeats": plan.repeats,
        "warm_up": 1,
        "decode_tokens": plan.decode_tokens,
        "device": device_name(_device(model)),
        "methods": {name: {"batch_size": batch_size, **found} for name, found in measured.items()},
    }


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _rotated(methods: Sequence[Method], number: int) -> list[Method]:
    start = number % len(methods)
    return [*methods[start:], *methods[:start]]


def _batches(model: nn.Module, processor: Any, samples: Sequence[Sample], plan: TimingPlan) -> list[Prompts]:
    """Whole batches of samples that can be opened and rendered; one smaller batch if there are not enough."""
    usable: list[Opened] = []
    for sample in samples:
        if len(usable) == max(plan.samples, 1):
            break
        opened = open_sample(sample)
        if opened.error is None:
            usable.append(opened)
    if not usable:
        raise UserError("no sample can be opened, so nothing can be timed; mend the images or set efficiency.samples=0")
    size = min(plan.batch_size, len(usable))
    whole = [usable[start : start + size] for start in range(0, len(usable) - size + 1, size)]
    return [
        prompts_of(processor, [item.sample for item in items], [item.images for item in items], model)
        for items in whole
    ]


# ---------------------------------------------------------------- one call


def _rehearse(
    model: nn.Module, processor: Any, prompts: Prompts, method: Method, plan: TimingPlan, timings: _Timings,
    turn: tuple[int, int],
) -> None:  # fmt: skip
    """The uncounted round: warms up, and measures what would disturb the clock or needs none."""
    count, device = len(prompts.samples), _device(model)
    parts, spent = _timed_parts(method.parts, device)
    with attach(model, *parts, spans=prompts.spans):
        output = generate(
            model, processor, prompts, watch=Stopwatch(device), max_new_tokens=1, return_dict_in_generate=True
        )
    timings.pruner_ms.append(1000 * sum(spent) / count)
    stored = _cache_mib(cache_in(output))
    if stored is not None:
        timings.kv_cache_mib.append(stored / count)
    try:
        timings.counted_tflops.append(_counted_tflops(model, processor, prompts, method) / count)
    # Counting looks into every kernel; one that it cannot look into must not take the times with it.
    except Exception as error:
        warnings.warn(f"operations of {method.name} could not be counted: {one_line(error)}", stacklevel=2)
    vision = _vision_ms(model, prompts)
    if vision is not None:
        timings.vision_ms.append(vision / count)


def _time(
    model: nn.Module, processor: Any, prompts: Prompts, method: Method, plan: TimingPlan, timings: _Timings,
    turn: tuple[int, int],
) -> None:  # fmt: skip
    """One counted call: from the start to the first token, then token by token."""
    count, device = len(prompts.samples), _device(model)
    length = {"min_new_tokens": plan.decode_tokens + 1, "max_new_tokens": plan.decode_tokens + 1}
    _forget_peak(model)
    with attach(model, *method.parts, spans=prompts.spans):
        watch = Stopwatch(device)
        synchronize(device)
        start = time.perf_counter()
        generate(model, processor, prompts, watch=watch, **length)
    timings.prefill_ms[turn] = 1000 * (watch.times[0] - start) / count
    steps = len(watch.times) - 1
    if steps:
        timings.decode_tokens_per_s.append(count * steps / (watch.times[-1] - watch.times[0]))
    peak = _peak_mib(model)
    if peak is not None:
        timings.peak_memory_mib.append(peak)


def _counted_tflops(model: nn.Module, processor: Any, prompts: Prompts, method: Method) -> float:
    """Operations of one prefill in 10^12, as PyTorch counts them kernel by kernel: in a call of its own, it is slow."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={on_cpu: _cpu_attention_flops})
    with attach(model, *method.parts, spans=prompts.spans), counter:
        generate(model, processor, prompts, watch=Stopwatch(_device(model)), max_new_tokens=1)
    return counter.get_total_flops() / 1e12


def _cpu_attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of the CPU's attention kernel, which PyTorch does not count, from the shapes ``(B, H, L, d)``."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


def _vision_ms(model: nn.Module, prompts: Prompts) -> float | None:
    """Milliseconds of the vision tower and projector on the batch; ``None`` where the model has no such method."""
    encode = getattr(model, "get_image_features", None)
    if encode is None:
        return None
    accepted = inspect.signature(encode).parameters
    inputs = {name: value for name, value in prompts.inputs.items() if name in accepted and name != "input_ids"}
    if "pixel_values" not in inputs:
        return None
    device = _device(model)
    synchronize(device)
    start = time.perf_counter()
    with torch.inference_mode():
        encode(**inputs)
    synchronize(device)
    return 1000 * (time.perf_counter() - start)


def _cache_mib(cache: object) -> float | None:
    """Keys and values that a cache holds, in MiB; ``None`` for a cache that does not show its layers."""
    layers = getattr(cache, "layers", None)
    if not layers:
        return None
    held = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return sum(value.numel() * value.element_size() for value in held if isinstance(value, Tensor)) / 2**20


def _cuda_devices(model: nn.Module) -> set[torch.device]:
    """The GPUs that hold the model: several where it is spread."""
    return {value.device for value in model.parameters() if value.device.type == "cuda"}


def _forget_peak(model: nn.Module) -> None:
    for device in _cuda_devices(model):
        torch.cuda.reset_peak_memory_stats(device)


def _peak_mib(model: nn.Module) -> float | None:
    peaks = [torch.cuda.max_memory_allocated(device) for device in _cuda_devices(model)]
    return sum(peaks) / 2**20 if peaks else None


# ---------------------------------------------------------------- a rule's own time


def _timed_parts(parts: Sequence[object], device: torch.device) -> tuple[list[object], list[float]]:
    """Copies of the parts whose decisions are timed, and the list that receives the seconds."""
    spent: list[float] = []
    return [_timed(part, device, spent) if isinstance(part, Pruner) else part for part in parts], spent


def _timed(pruner: Pruner, device: torch.device, spent: list[float]) -> Pruner:
    """A copy of ``pruner`` that notes how long it decides. Only the copy's class differs, by the methods below."""
    kind = type(pruner)
    running: list[bool] = []

    def clocked(decide: Callable[..., Any]) -> Callable[..., Any]:
        def measured(self: Pruner, features: Any) -> Any:
            if running:  # choose_batch calls choose: count the outer one
                return decide(self, features)
            running.append(True)
            synchronize(device)
            start = time.perf_counter()
            try:
                return decide(self, features)
            finally:
                synchronize(device)
                spent.append(time.perf_counter() - start)
                running.clear()

        return measured

    def stages(self: Pruner) -> tuple[Pruner, ...]:
        return tuple(self if stage is self else _timed(stage, device, spent) for stage in kind.stages(self))

    members = {"choose": clocked(kind.choose), "choose_batch": clocked(kind.choose_batch), "stages": stages}
    timed = copy.copy(pruner)
    timed.__class__ = type(kind.__name__, (kind,), {**members, "__module__": kind.__module__})
    return timed


# ---------------------------------------------------------------- numbers


def _described(timings: _Timings, baseline: _Timings | None) -> Mapping[str, float | None]:
    prefill = list(timings.prefill_ms.values())
    return {
        "vision_ms": _median(timings.vision_ms),
        "prefill_ms": _median(prefill),
        "prefill_ms_p10": _percentile(prefill, 10),
        "prefill_ms_p90": _percentile(prefill, 90),
        "decode_tokens_per_s": _median(timings.decode_tokens_per_s),
        "decode_tokens_per_s_p10": _percentile(timings.decode_tokens_per_s, 10),
        "decode_tokens_per_s_p90": _percentile(timings.decode_tokens_per_s, 90),
        "counted_prefill_tflops": _median(timings.counted_tflops),
        "pruner_ms": _median(timings.pruner_ms),
        "kv_cache_mib": _median(timings.kv_cache_mib),
        "peak_memory_mib": max(timings.peak_memory_mib, default=None),
        "speedup_prefill": _speedup(timings, baseline),
    }


def _speedup(timings: _Timings, baseline: _Timings | None) -> float | None:
    """How many times faster the prefill is, compared batch by batch within a round."""
    if baseline is None:
        return None
    both = timings.prefill_ms.keys() & baseline.prefill_ms.keys()
    return _median([baseline.prefill_ms[turn] / timings.prefill_ms[turn] for turn in both])


def _median(values: Sequence[float]) -> float | None:
    return _percentile(values, 50)


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
