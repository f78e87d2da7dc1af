"""What EAH in one layer costs: time against the untouched prefill, and memory against the chunk of its choice.

    python experiments/performance/eah.py --write                 # CPU: two layers of LLaVA-1.5-7B's shape, minutes
    python experiments/performance/eah.py --device cuda --size 7b --write     # all 32 layers in bfloat16 (never run)
    python experiments/performance/eah.py --size tiny --visual 36 --rounds 1  # does it run?

Weights are random: speed does not depend on them. The image is given as embeddings, so the vision tower is not in it.
Untouched and edited prefills take turns within every round, the first round is not counted, and ratios are within one
round. On a CPU the process's own seconds are counted, on one thread, so that other work there disturbs little. Memory
is what the choice of the head holds at once beyond its arguments, from the allocator's own events. A map over all
queries and keys of all heads, which the released code holds several times over, is given for comparison.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent))
from prefill import SIZES, TEXT_TOKENS, Prompt, Size, build_model, build_prompt  # noqa: E402 - a script beside this one

from lit_simignore.engine.environment import device_name, versions  # noqa: E402
from lit_simignore.engine.generation import synchronize  # noqa: E402
from lit_simignore.interventions.base import LayerContext  # noqa: E402
from lit_simignore.interventions.eah import EAH  # noqa: E402
from lit_simignore.surgery.attach import attach  # noqa: E402
from lit_simignore.surgery.columns import visual_columns  # noqa: E402

HERE = Path(__file__).resolve().parent
WHOLE = 32
"""Layers of LLaVA-1.5-7B's decoder."""
CHUNKS = (64, 128, 256, 512)
SHAPES = {**SIZES, "two layers of 7b": Size(4096, 11008, 2, 32, 4096)}
METHODS: dict[str, tuple[EAH, ...]] = {
    "untouched": (),
    "EAH, corrected": (EAH(),),
    "EAH, paper": (EAH.preset("paper"),),
    "EAH, released, layer 1": (EAH.preset("released", layer_idx=1),),
}


def prefill_seconds(model: Any, prompt: Prompt, parts: tuple[EAH, ...]) -> float:
    """One prefill, attached as a user would."""
    device = prompt.embeds.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with torch.inference_mode(), attach(model, *parts), visual_columns(prompt.visual, prompt.text):
        synchronize(device)
        start = clock()
        model(inputs_embeds=prompt.embeds, use_cache=True, logits_to_keep=1)
        synchronize(device)
        return clock() - start


def time_rows(model: Any, prompt: Prompt, rounds: int) -> dict[str, list[float]]:
    """Seconds per method and counted round."""
    names, spent = list(METHODS), {name: [] for name in METHODS}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = prefill_seconds(model, prompt, METHODS[name])
            if number:
                spent[name].append(seconds)
    return spent


def choice_mib(size: Size, length: int, num_visual: int, chunk: int) -> float:
    """Most that ``EAH.choose`` holds at once beyond its arguments, on the CPU, in MiB."""
    heads, dim = size.heads, size.hidden // size.heads
    query, key = (torch.randn(1, heads, length, dim) for _ in range(2))
    visual = torch.zeros(1, length, dtype=torch.bool)
    visual[:, TEXT_TOKENS // 2 : TEXT_TOKENS // 2 + num_visual] = True
    context = LayerContext(1, size.layers, visual, torch.ones_like(visual), dim**-0.5)
    rule = EAH(chunk=chunk)
    rule.choose(query, key, context)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        rule.choose(query, key, context)
    held = most = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def table(arguments: argparse.Namespace) -> str:
    """The page that is printed or written."""
    size, device = SHAPES[arguments.size], torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = build_model(size, device, dtype)
    lines = [
        "# EAH", "",
        f"`eah.py`, {datetime.date.today()}, {device_name(device)}, {torch.get_num_threads()} threads, "
        f"{str(dtype).removeprefix('torch.')}, batch 1; decoder of {size.layers} layers, hidden {size.hidden}, "
        f"{size.heads} heads; {TEXT_TOKENS} text tokens; median (range) of {arguments.rounds} rounds; torch "
        f"{versions()['torch']}, transformers {versions()['transformers']}, sdpa. One layer is edited. Goal: at most "
        f"5 % of the untouched prefill of {WHOLE} layers; what one layer costs more does not depend on how many there "
        "are.",
        "", f"| visual tokens | method | prefill ms | % of untouched | more, % of {WHOLE} layers (computed) |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    for num_visual in arguments.visual:
        spent = time_rows(model, build_prompt(model, num_visual, 1), arguments.rounds)
        for name, seconds in spent.items():
            ratios = [100 * a / b for a, b in zip(seconds, spent["untouched"], strict=True)]
            more = [(ratio - 100) * size.layers / WHOLE for ratio in ratios]
            cells = [spread([1000 * each for each in seconds], 0), spread(ratios, 1), spread(more, 2)]
            lines.append(f"| {num_visual} | {name} | {' | '.join(cells)} |")
    lines += ["", "What the choice of the head holds at once, in MiB, and a float32 map of all heads beside it:", ""]
    lines.append("| visual tokens | " + " | ".join(f"chunk {chunk}" for chunk in CHUNKS) + " | whole map |")
    lines.append("| ---: |" + " ---: |" * (len(CHUNKS) + 1))
    for num_visual in arguments.visual:
        length = num_visual + TEXT_TOKENS
        held = [f"{choice_mib(size, length, num_visual, chunk):.1f}" for chunk in CHUNKS]
        lines.append(f"| {num_visual} | {' | '.join(held)} | {4 * size.heads * length**2 / 2**20:.1f} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", default="two layers of 7b", choices=sorted(SHAPES))
    parser.add_argument("--visual", type=int, nargs="+", default=[576, 2880])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", nargs="?", const=str(HERE / "eah.md"), help="write the page there as well")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    page = table(arguments)
    print(page)
    if arguments.write:
        Path(arguments.write).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
