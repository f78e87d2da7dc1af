"""What pruning does to a prefill: measured time and cache against the untouched model, and against what FLOPs predict.

    python experiments/performance/prefill.py                      # CPU: a decoder in which matmul dominates, minutes
    python experiments/performance/prefill.py --device cuda        # LLaVA-1.5-7B's shape in bfloat16
    python experiments/performance/prefill.py --size tiny --visual 64 --rounds 1     # does it run?

Weights are random: speed does not depend on them. Images are given as embeddings, so that what is timed is what pruning
changes: decoder, head for one position, and everything that attach() does; the vision tower is not in it. 576 visual
tokens are one image of LLaVA-1.5, 2880 are five. Methods take turns within every round, which begins with another one
each time; the first round is not counted. Speed-ups are ratios within one round.

FLOPs count attention over the full square, as the package and the papers do. Kernels skip what causality hides, so a
long untouched prefill is cheaper than its count says; the ratio in brackets counts half of the square instead.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from lit_simignore.engine.environment import device_name, versions
from lit_simignore.engine.generation import synchronize
from lit_simignore.metrics.flops import DecoderShape, prefill_flops
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery import hooks, stages
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.calls import cache_in, cache_name
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.types import Budget

HERE = Path(__file__).resolve().parent
TEXT_TOKENS = 64
DECODE_STEPS = 8
FASTV_LAYER = 2
SELECTION_ROUNDS = 3
"""Counted rounds in which selection is timed, each in a prefill of its own."""
IMAGE_TOKEN = 5


@dataclass(frozen=True)
class Size:
    """Shape of a Llama decoder with as many key heads as query heads."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab: int


SIZES = {
    "tiny": Size(64, 172, 4, 4, 128),
    "cpu": Size(1024, 2752, 12, 8, 4096),
    "7b": Size(4096, 11008, 32, 32, 32064),
}


@dataclass(frozen=True)
class Prompt:
    """One prompt as embeddings ``(B, N, D)`` and its masks ``(B, N)``: text, images, text."""

    embeds: Tensor
    visual: Tensor
    text: Tensor


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    name: str
    parts: tuple[object, ...] = ()


@dataclass
class Record:
    """What was measured of one contestant; times in seconds, one per round."""

    prefill: list[float] = field(default_factory=list)
    selection: list[float] = field(default_factory=list)
    cache_bytes: int = 0
    budget: Budget | None = None
    syncs_prefill: int | None = None
    syncs_per_token: float | None = None


# ---------------------------------------------------------------- what is measured on


def build_model(size: Size, device: torch.device, dtype: torch.dtype) -> Any:
    """A random LLaVA whose vision tower is only there for its configuration."""
    text = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)
    torch.manual_seed(0)
    with device:
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def build_prompt(model: Any, num_visual: int, batch: int) -> Prompt:
    """Random rows: half of the text in front of the images, half behind them."""
    weight = model.get_input_embeddings().weight
    length = TEXT_TOKENS + num_visual
    generator = torch.Generator(weight.device).manual_seed(1)
    embeds = torch.randn(batch, length, weight.shape[1], generator=generator, device=weight.device, dtype=torch.float32)
    visual = torch.zeros(batch, length, dtype=torch.bool, device=weight.device)
    visual[:, TEXT_TOKENS // 2 : TEXT_TOKENS // 2 + num_visual] = True
    return Prompt((0.02 * embeds).to(weight.dtype), visual, ~visual)


def contestants(num_visual: int) -> list[Contestant]:
    """The untouched model, and both kinds of pruning at a quarter and a ninth of the tokens."""
    counts = [max(1, num_visual // 4), max(1, num_visual // 9)]
    before = [Contestant(f"Simignore, {count} kept", (Simignore(num_keep=count),)) for count in counts]
    inside = [
        Contestant(f"FastV before layer {FASTV_LAYER}, {count} kept", (FastV(layer_idx=FASTV_LAYER, num_keep=count),))
        for count in counts
    ]
    return [Contestant("untouched"), *before, *inside]


# ---------------------------------------------------------------- measuring


@contextmanager
def attached(model: Any, contestant: Contestant, prompt: Prompt) -> Iterator[Any]:
    """The model as the contestant wants it; yields the trace."""
    with (
        torch.inference_mode(),
        attach(model, *contestant.parts) as trace,
        visual_columns(prompt.visual, prompt.text),
    ):
        yield trace


def prefill(model: Any, prompt: Prompt) -> Any:
    """The call that is timed."""
    return model(inputs_embeds=prompt.embeds, use_cache=True, logits_to_keep=1)


def time_prefill(model: Any, contestant: Contestant, prompt: Prompt, record: Record) -> None:
    """One counted prefill, and what it left in the cache."""
    device = prompt.embeds.device
    with attached(model, contestant, prompt) as trace:
        synchronize(device)
        start = time.perf_counter()
        output = prefill(model, prompt)
        synchronize(device)
        record.prefill.append(time.perf_counter() - start)
    record.budget = trace.budget
    record.cache_bytes = sum(
        part.numel() * part.element_size()
        for layer in cache_in(output).layers
        for part in (layer.keys, layer.values)
    )


def time_selection(model: Any, contestant: Contestant, prompt: Prompt, record: Record) -> None:
    """Everything between the rows that reach a stage and its decision, attention rows and top-k included.

    Measured in prefills of its own, because the clock waits for the device at every stage.
    """
    device, original = prompt.embeds.device, hooks.choose_visual
    spent: list[float] = []

    def clocked(*arguments: Any) -> Any:
        synchronize(device)
        start = time.perf_counter()
        try:
            return original(*arguments)
        finally:
            synchronize(device)
            spent.append(time.perf_counter() - start)

    with (
        patch.object(hooks, "choose_visual", clocked),
        patch.object(stages, "choose_visual", clocked),
        attached(model, contestant, prompt),
    ):
        prefill(model, prompt)
    record.selection.append(sum(spent))


def count_synchronisations(model: Any, contestant: Contestant, prompt: Prompt, record: Record) -> None:
    """How often the host waits for the device, in a prefill and per token of greedy decoding. CUDA only."""
    with attached(model, contestant, prompt):
        with synchronisations() as found:
            output = prefill(model, prompt)
        record.syncs_prefill = len(found)
        batch, length = prompt.visual.shape
        with synchronisations() as found:
            for step in range(1, DECODE_STEPS + 1):
                mask = torch.ones(batch, length + step, dtype=torch.long, device=prompt.visual.device)
                ids = output.logits[:, -1:].argmax(dim=-1)
                cache = {cache_name(model.forward): cache_in(output)}
                output = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, **cache)
        record.syncs_per_token = len(found) / DECODE_STEPS


@contextmanager
def synchronisations() -> Iterator[list[str]]:
    """Collects one line per wait for the device that torch's debug mode notices."""
    found: list[str] = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            # switching the mode on warns too, that it is a prototype: that is no wait
            found += [str(each.message) for each in caught if "called a synchronizing" in str(each.message)]


def measure(model: Any, num_visual: int, batch: int, rounds: int) -> dict[str, Record]:
    """All contestants at one length."""
    prompt, everyone = build_prompt(model, num_visual, batch), contestants(num_visual)
    records = {contestant.name: Record() for contestant in everyone}
    for turn in range(rounds + 1):
        start = turn % len(everyone)
        for contestant in everyone[start:] + everyone[:start]:
            time_prefill(model, contestant, prompt, records[contestant.name])
            if contestant.parts and turn <= SELECTION_ROUNDS:
                time_selection(model, contestant, prompt, records[contestant.name])
    for contestant in everyone:
        record = records[contestant.name]
        del record.prefill[0], record.selection[:1]
        if prompt.embeds.device.type == "cuda":
            count_synchronisations(model, contestant, prompt, record)
    return records


# ---------------------------------------------------------------- numbers


def rows(records: dict[str, Record], num_visual: int, shape: DecoderShape) -> Iterator[list[str]]:
    """One line of the table per contestant."""
    dense = records["untouched"]
    assert dense.budget is not None
    for name, record in records.items():
        assert record.budget is not None
        speedups = [slow / fast for slow, fast in zip(dense.prefill, record.prefill, strict=True)]
        predicted = dense.budget.prefill_tflops / record.budget.prefill_tflops
        causal = causal_flops(shape, dense.budget) / causal_flops(shape, record.budget)
        kept = (record.budget.layer_mean + TEXT_TOKENS) / (dense.budget.layer_mean + TEXT_TOKENS)
        yield [
            str(num_visual),
            name,
            f"{record.budget.layer_mean:.0f}",
            spread([1000 * seconds for seconds in record.prefill], "{:.0f}"),
            f"{record.cache_bytes / 2**20:.1f}",
            f"{record.cache_bytes / dense.cache_bytes:.3f} ({kept:.3f})",
            f"{predicted:.2f}",
            spread(speedups, "{:.2f}"),
            f"{statistics.median(speedups) / predicted:.2f} ({statistics.median(speedups) / causal:.2f})",
            share(record.selection, dense.prefill),
            waits(record),
        ]


HEADLINE = (
    "visual tokens", "method", "per layer", "prefill ms", "KV MiB", "KV of untouched (expected)", "speed-up by FLOPs",
    "speed-up measured", "measured / FLOPs (causal)", "selection, % of untouched prefill", "waits: prefill, per token",
)  # fmt: skip


def causal_flops(shape: DecoderShape, budget: Budget) -> float:
    """Cost of a prefill whose attention does half of the square; all contestants drop before the same layer or none."""
    visual = [budget.input] * FASTV_LAYER + [budget.final] * (shape.num_layers - FASTV_LAYER)
    lengths = [count + TEXT_TOKENS for count in visual]
    return prefill_flops(shape, lengths) - shape.pair_flops * sum(length**2 for length in lengths) / 2


def spread(values: Sequence[float], form: str) -> str:
    """Median and range."""
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"


def share(selection: Sequence[float], dense: Sequence[float]) -> str:
    """Selection as a percentage of the untouched prefill, by medians."""
    return f"{100 * statistics.median(selection) / statistics.median(dense):.2f}" if selection else "-"


def waits(record: Record) -> str:
    """Host synchronisations, where they were counted."""
    return "-" if record.syncs_prefill is None else f"{record.syncs_prefill}, {record.syncs_per_token:.2f}"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    marks = ["---:" if column not in (1,) else "---" for column in range(len(HEADLINE))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADLINE, marks, *lines))


def facts(arguments: argparse.Namespace, size: Size, device: torch.device, dtype: torch.dtype) -> str:
    """What the numbers depend on."""
    known = versions()
    return (
        f"{datetime.date.today().isoformat()}, {device_name(device)}, {torch.get_num_threads()} threads, "
        f"{str(dtype).removeprefix('torch.')}, batch {arguments.batch}; decoder of {size.layers} layers, hidden "
        f"{size.hidden}, intermediate {size.intermediate}, {size.heads} heads; {TEXT_TOKENS} text tokens; median "
        f"(range) of {arguments.rounds} rounds; torch {known['torch']}, transformers {known['transformers']}, sdpa. "
        "Without the vision tower. Goals: measured / FLOPs at least 0.9, selection below 1 %, no more waits per token "
        "than the untouched model."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    arguments = parser().parse_args(argv)
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    size = SIZES[arguments.size or ("7b" if cuda else "cpu")]
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if cuda else "float32"))
    model = build_model(size, device, dtype)
    lines = []
    for num_visual in arguments.visual:
        records = measure(model, num_visual, arguments.batch, arguments.rounds)
        lines += rows(records, num_visual, DecoderShape.from_config(model.config))
    text = f"{facts(arguments, size, device, dtype)}\n\n{table(lines)}\n"
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(f"# Prefill\n\n`{Path(__file__).name}`, {text}", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--size", choices=SIZES, help="7b on a GPU, else cpu")
    found.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 on a GPU, else float32")
    found.add_argument("--visual", type=int, nargs="+", default=[576, 2880], help="visual tokens")
    found.add_argument("--batch", type=int, default=1)
    found.add_argument("--rounds", type=int, default=5, help="counted rounds, after one that is not")
    found.add_argument("--write", type=Path, nargs="?", const=HERE / "prefill.md", help="write prefill.md, or a file")
    return found


if __name__ == "__main__":
    main()
