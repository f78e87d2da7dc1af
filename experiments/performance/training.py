"""What a training step costs on all visual tokens and on a quarter of them: samples and tokens per second, and memory.

    python experiments/performance/training.py --write               # CPU: four layers in which matmul dominates
    python experiments/performance/training.py --size "two layers of 7b" --rounds 2       # LLaVA-1.5-7B's width
    python experiments/performance/training.py --device cuda --size 7b --tuning lora --batch 8 --write    # never run
    python experiments/performance/training.py --size tiny --rounds 1          # does it run?

A step is what ``train.py`` does: pruned forward, loss on the answer, backward, clipping, AdamW; weights and pictures
are random, for speed does not depend on them, and the vision tower is too small to count. Steps on all tokens and on a
quarter take turns within every round, the first round is not counted, and speed-ups are ratios within one round. On a
CPU the process's own seconds are counted, on one thread, so that other work there disturbs little.

Tokens are those of the unpruned prompt and answer, so tokens per second compare the same work. "Kept for backward" are
the bytes that autograd holds between forward and backward, parameters not counted. "Peak" is that of the device (CUDA)
or of a process of its own that takes two steps (CPU); weights, gradients and the optimiser's state are in it.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from eah import SHAPES, spread  # noqa: E402 - scripts beside this one
from prefill import IMAGE_TOKEN, TEXT_TOKENS, Size, build_model  # noqa: E402

from lit_simignore.data.conversations_batch import TrainBatch  # noqa: E402
from lit_simignore.engine.environment import device_name, versions  # noqa: E402
from lit_simignore.engine.finetune_tuning import Tuning, prepare_tuning, trained  # noqa: E402
from lit_simignore.engine.finetuner import answer_loss  # noqa: E402
from lit_simignore.engine.generation import synchronize  # noqa: E402
from lit_simignore.pruning.simignore import Simignore  # noqa: E402
from lit_simignore.surgery.attach import attach, unwrap  # noqa: E402
from lit_simignore.surgery.prompt import IGNORED_LABEL  # noqa: E402
from lit_simignore.surgery.spans import NO_ROLE, ROLE_CODES, Spans  # noqa: E402
from lit_simignore.types import Role  # noqa: E402

HERE = Path(__file__).resolve().parent
VISUAL_TOKENS = 576
ANSWER_TOKENS = 8
SHAPES = {**SHAPES, "four layers": Size(1024, 2752, 4, 8, 4096)}
SHARES: dict[str, tuple[Simignore, ...]] = {"all": (), "a quarter": (Simignore(keep_ratio=0.25),)}


class Setting(NamedTuple):
    """What is trained and how: a pair of rows of the table."""

    tuning: str
    checkpointing: bool


class Bench:
    """A model, its optimiser, and one batch that is trained on again and again."""

    def __init__(self, size: Size, setting: Setting, device: torch.device, dtype: torch.dtype, batch: int) -> None:
        model = build_model(size, device, dtype)
        wish = Tuning(kind=setting.tuning, gradient_checkpointing=setting.checkpointing)
        self.model = unwrap(prepare_tuning(model, wish).to(device))
        self.weights = list(trained(self.model).values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-5)
        self.batch = build_batch(size.vocab, batch, device)
        self.device, self.mixed = device, dtype is torch.bfloat16

    def step(self, parts: tuple[Simignore, ...], watch: Any = None) -> float:
        """Seconds of one step; ``watch`` is a context around the forward."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        with ExitStack() as stack:
            if parts:
                stack.enter_context(attach(self.model, *parts, spans=self.batch.spans))
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed))
            synchronize(self.device)
            start = clock()
            with watch if watch is not None else ExitStack():
                total, count = answer_loss(self.model, self.batch)
            (total / count).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        synchronize(self.device)
        return clock() - start

    def kept_mib(self, parts: tuple[Simignore, ...]) -> float:
        """What autograd holds between forward and backward, each storage once, parameters left out."""
        with kept_for_backward(self.model) as storages:
            self.step(parts, saving(storages))
        return sum(storages.values()) / 2**20


def build_batch(vocab: int, batch: int, device: torch.device) -> TrainBatch:
    """Question, image, question, answer: random tokens, random pictures."""
    torch.manual_seed(1)
    length = TEXT_TOKENS + VISUAL_TOKENS
    ids = torch.randint(IMAGE_TOKEN + 1, vocab, (batch, length))
    ids[:, TEXT_TOKENS // 2 : TEXT_TOKENS // 2 + VISUAL_TOKENS] = IMAGE_TOKEN
    roles = torch.full(ids.shape, ROLE_CODES[Role.QUESTION], dtype=torch.int8)
    roles[ids == IMAGE_TOKEN] = NO_ROLE
    roles[:, -ANSWER_TOKENS:] = ROLE_CODES[Role.ANSWER]
    labels = ids.masked_fill(roles != ROLE_CODES[Role.ANSWER], IGNORED_LABEL)
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(batch, 3, 336, 336),
    }  # fmt: skip
    return TrainBatch(inputs, labels, Spans(ids, roles, tuple(map(str, range(batch))))).to(device)


@contextmanager
def kept_for_backward(model: Any) -> Iterator[dict[int, int]]:
    """Collects bytes by storage; storages of parameters count nothing."""
    storages: dict[int, int] = {value.untyped_storage().data_ptr(): 0 for value in model.parameters()}
    yield storages


def saving(storages: dict[int, int]) -> Any:
    """Notes what autograd saves; nothing of it is freed before backward, so no address is used twice."""

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)


def device_peak_mib(bench: Bench, share: str) -> float:
    """Most memory of the CUDA device that was in use at once in a step."""
    torch.cuda.reset_peak_memory_stats()
    bench.step(SHARES[share])
    return torch.cuda.max_memory_allocated() / 2**20


def process_peak_mib(arguments: argparse.Namespace, setting: Setting, share: str) -> float:
    """Most memory of a process of its own that takes two steps; the second has the optimiser's state.

    Forked while no model is there, so that only what it builds itself and the imports are counted.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bench = Bench(SHAPES[arguments.size], setting, torch.device("cpu"), torch.float32, arguments.batch)
            for _ in range(2):
                bench.step(SHARES[share])
            os.write(sending, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving) as answer:
        said = answer.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the process that measures memory failed; is there enough of it?")
    return float(said)


def rows(arguments: argparse.Namespace, setting: Setting) -> Iterator[str]:
    """Two lines of the table: all tokens, and a quarter."""
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    peaks = {name: process_peak_mib(arguments, setting, name) for name in SHARES if device.type == "cpu"}
    bench = Bench(SHAPES[arguments.size], setting, device, dtype, arguments.batch)
    kept = {name: bench.kept_mib(parts) for name, parts in SHARES.items()}
    spent: dict[str, list[float]] = {name: [] for name in SHARES}
    for number in range(arguments.rounds + 1):
        for name in (list(SHARES), list(SHARES)[::-1])[number % 2]:
            seconds = bench.step(SHARES[name])
            spent[name] += [seconds] if number else []
    peaks = peaks or {name: device_peak_mib(bench, name) for name in SHARES}
    del bench
    gc.collect()
    length = VISUAL_TOKENS + TEXT_TOKENS
    for name, seconds in spent.items():
        ratios = [slow / fast for slow, fast in zip(spent["all"], seconds, strict=True)]
        per_second = arguments.batch / statistics.median(seconds)
        cells = [
            setting.tuning, "yes" if setting.checkpointing else "no", name, spread(seconds, 2), f"{per_second:.3g}",
            f"{per_second * length:.0f}", spread(ratios, 2), f"{kept[name]:.0f} ({kept['all'] / kept[name]:.1f})",
            f"{peaks[name]:.0f} ({peaks['all'] / peaks[name]:.2f})",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def page(arguments: argparse.Namespace) -> str:
    """What is printed or written."""
    size, device = SHAPES[arguments.size], torch.device(arguments.device)
    precision = "bfloat16, adapters float32" if device.type == "cuda" else "float32"
    length = VISUAL_TOKENS + TEXT_TOKENS
    lines = [
        "# Training", "",
        f"`training.py`, {datetime.date.today()}, {device_name(device)}, {torch.get_num_threads()} threads, "
        f"{precision}, batch {arguments.batch}; decoder of {size.layers} layers, hidden {size.hidden}, intermediate "
        f"{size.intermediate}, {size.heads} heads; {VISUAL_TOKENS} visual tokens, {TEXT_TOKENS} of text, "
        f"{ANSWER_TOKENS} of them answer; LoRA of rank 16 in all linear layers; median (range) of {arguments.rounds} "
        f"rounds; torch {versions()['torch']}, transformers {versions()['transformers']}, sdpa. Tokens are those of "
        f"the unpruned prompt; a quarter of the visual ones leaves {(length - 3 * VISUAL_TOKENS / 4) / length:.0%} of "
        "them. In brackets behind memory: how many times less.",
        "",
        "| trained | checkpointing | visual tokens | step s | samples/s | tokens/s | speed-up | "
        "kept for backward, MiB | peak, MiB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for tuning in arguments.tuning:
        for checkpointing in (False, True):
            for line in rows(arguments, Setting(tuning, checkpointing)):
                print(line, file=sys.stderr)
                lines.append(line)
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", default="four layers", choices=sorted(SHAPES))
    parser.add_argument("--tuning", nargs="+", default=["lora", "full"], choices=["lora", "projector", "full"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", nargs="?", const=str(HERE / "training.md"), help="write the page there as well")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    text = page(arguments)
    print(text)
    if arguments.write:
        Path(arguments.write).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
