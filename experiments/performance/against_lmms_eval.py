"""Throughput of our loop against lmms-eval's ``llava_hf``: one checkpoint, one task, the same answers.

    python experiments/performance/against_lmms_eval.py      # CPU: about ten minutes where nothing else runs
    python experiments/performance/against_lmms_eval.py --size tiny --samples 4 --tokens 2 --batches 2 --rounds 1

Both sides answer lmms-eval's own task ``pope`` on the same local data with the same random LLaVA (576 visual tokens per
picture), in float32, greedily, in one process that has loaded both; every round begins with another side, and the first
answers of each side are not counted. ``llava_hf`` of 0.7.3 takes one sample at a time; ours takes the batch that was
fastest among ``--batches``. What is timed is all that happens between a loaded model with data at hand and the metrics.
Start-up, from the birth of a process to that point, is measured in fresh processes of one side each, and added. Random
weights never end an answer, so its length is what was asked for. The answers of both sides must be the same text, and
their scores the same numbers, or nothing is reported.

Processor seconds are the process's own: on a machine that others use as well they say more than the clock.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TASK = "pope"
IMAGE_SIDE, PATCH = 336, 14
THINGS = ("dog", "cup", "car", "cat", "bird", "tree", "boat", "chair", "clock", "horse")


@dataclass(frozen=True)
class Size:
    """Shape of a Llama decoder and of a CLIP tower of the same width."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vision_layers: int
    vocab: int = 4096


SIZES = {
    "tiny": Size(64, 172, 2, 4, 2),
    "small": Size(384, 1032, 6, 6, 4),
    "cpu": Size(512, 1376, 8, 8, 6),
    "large": Size(1024, 2752, 12, 8, 12),
}


@dataclass(frozen=True)
class Work:
    """What one process took for one thing; seconds by the clock and of the processor."""

    wall: float
    cpu: float


class Stopwatch:
    """Time since the last look; the first look is since the process was born."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.time() - _age(), 0.0

    def lap(self) -> Work:
        """What has passed since the last lap."""
        wall, cpu = time.time(), time.process_time()
        found = Work(wall - self._wall, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        return found


def _age() -> float:
    """Seconds since this process was born."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- what both sides are given


def write_checkpoint(folder: Path, size: Size) -> None:
    """A random LLaVA-1.5 of this shape with a processor that lmms-eval takes as well."""
    import torch
    import transformers as hf

    text = hf.LlamaConfig(
        vocab_size=size.vocab, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    vision = hf.CLIPVisionConfig(
        hidden_size=size.hidden, intermediate_size=4 * size.hidden, num_hidden_layers=size.vision_layers,
        num_attention_heads=size.heads, image_size=IMAGE_SIDE, patch_size=PATCH,
    )  # fmt: skip
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, vision_feature_layer=-2)
    torch.manual_seed(0)
    model = hf.LlavaForConditionalGeneration(config)
    # Weights as drawn make every next token almost equally likely: rounding would choose, and differently by batch.
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
        model.lm_head.weight[2] = 0  # an end that is never likely: every answer has the length that is asked for
    model.save_pretrained(folder)
    _processor(size.vocab).save_pretrained(folder)


def _processor(vocab: int) -> Any:
    """Text is read character by character; what a model may say beyond that are numbered words."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    known = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = [f"\u0120w{number}" for number in range(vocab - len(known))]
    backend = Tokenizer(models.BPE({word: place for place, word in enumerate([*known, *words])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens={"image_token": "<image>"}, padding_side="left",
        model_max_length=4096, **names,
    )  # fmt: skip
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    return hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def write_data(folder: Path, num: int) -> None:
    """POPE's columns; six questions about every picture, which is a JPEG of COCO's usual size."""
    import io

    import numpy as np
    from datasets import Dataset
    from datasets import Image as ImageFeature
    from PIL import Image

    rows = []
    for index in range(num):
        noise = np.random.default_rng(index // 6).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((640, 480)).save(stream, "JPEG", quality=90)
        thing = THINGS[index % len(THINGS)]
        rows.append(
            {"id": str(index), "question_id": str(index), "question": f"Is there a {thing} in the image?",
             "answer": "no" if index % 2 else "yes", "image_source": f"COCO_val2014_{index // 6}",
             "image": {"bytes": stream.getvalue(), "path": None}, "category": "adversarial"}
        )  # fmt: skip
    (folder / "data").mkdir(parents=True)
    Dataset.from_list(rows).cast_column("image", ImageFeature()).to_parquet(
        folder / "data" / "test-00000-of-00001.parquet"
    )


# ---------------------------------------------------------------- one process of one side


def start_ours(home: Path) -> Any:
    """Our side, ready to answer: a function of (length of answer, batch, visual tokens kept or ``None``)."""
    from lit_simignore.benchmarks.lmms import LMMSEval
    from lit_simignore.engine.evaluate import EvaluationSettings, evaluate
    from lit_simignore.metrics.records import read_run
    from lit_simignore.pruning.simignore import Simignore
    from lit_simignore.surgery.load import load
    from lit_simignore.types import Method

    model, processor = load(home / "checkpoint")
    benchmark = LMMSEval(task=TASK, path=str(home / "data"))
    benchmark.load()

    def answer(tokens: int, batch: int, keep: int | None = None) -> tuple[dict[str, str], dict[str, float]]:
        method = Method("baseline") if keep is None else Method("pruned", (Simignore(num_keep=keep),))
        settings = EvaluationSettings(
            max_new_tokens=tokens,
            batch_size=batch,
            accelerator="cpu",
            progress=False,
            report_samples=0,
            efficiency=None,
        )
        with tempfile.TemporaryDirectory(dir=home) as folder:
            summary = evaluate(model, processor, benchmark, [method], Path(folder), settings)
            records = read_run(Path(folder)).predictions
        (row,) = summary["methods"]
        return {key[0]: record.output for key, record in records.items()}, row["extra"]

    return answer


def start_theirs(home: Path) -> Any:
    """The same with lmms-eval's evaluator and its ``llava_hf``, whose batch is 1."""
    from lmms_eval import evaluator, models
    from lmms_eval.tasks import TaskManager

    folder = Path(evaluator.__file__).parent / "tasks" / TASK
    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name="llava_hf")
    changed = {"task": TASK, "dataset_path": str(home / "data"), "dataset_kwargs": {}}
    task = manager._load_individual_task_or_group(changed, task_type="chat")[TASK]
    task.set_config("num_fewshot", 0)
    arguments = f"pretrained={home / 'checkpoint'},device_map=cpu"
    model = models.get_model("llava_hf").create_from_arg_string(arguments, {"batch_size": 1, "device": "cpu"})
    model.task_dict[TASK] = task.dataset
    model.clean = lambda: None  # the evaluator throws the model away after its first call

    def answer(tokens: int, batch: int, keep: int | None = None) -> tuple[dict[str, str], dict[str, float]]:
        task.set_config("generation_kwargs", {"max_new_tokens": tokens}, update=True)
        result = evaluator.evaluate(lm=model, task_dict={TASK: task}, bootstrap_iters=0)
        said = {str(row["doc_id"]): row["filtered_resps"][0].strip() for row in result["samples"][TASK]}
        scores = {
            name.removesuffix(",none"): value
            for name, value in result["results"][TASK].items()
            if name.endswith(",none") and "_stderr" not in name
        }
        return said, scores

    return answer


START = {"ours": start_ours, "theirs": start_theirs}


def startups(home: Path, threads: int, times: int) -> dict[str, list[Work]]:
    """What fresh processes of each side take until they could begin to answer."""
    found: dict[str, list[Work]] = {side: [] for side in START}
    for number in range(times):
        for side in sorted(START, reverse=bool(number % 2)):
            command = [sys.executable, str(Path(__file__).resolve()), "--start", side, "--home", str(home)]
            several = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **several})
            if done.returncode:
                raise SystemExit(f"{side} did not start:\n{done.stderr[-4000:]}")
            found[side].append(Work(**json.loads(done.stdout.strip().splitlines()[-1])))
            print(f"start-up of {side}: {found[side][-1]}", file=sys.stderr, flush=True)
    return found


# ---------------------------------------------------------------- rounds and the table


SIDES = ("theirs", "ours", "pruned")


@dataclass(frozen=True)
class Turn:
    """One side once: its time and what came out."""

    work: Work
    said: Mapping[str, str]
    scores: Mapping[str, float]


def measure(answers: Mapping[str, Any], tokens: int, batch: int, rounds: int, keep: int) -> dict[str, list[Turn]]:
    """Every side once in every round, another one first each time.

    Raises:
        SystemExit: the answers or the scores of both sides differ.
    """
    found: dict[str, list[Turn]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for place in range(len(SIDES)):
            side = SIDES[(number + place) % len(SIDES)]
            found[side].append(_turn(answers, side, tokens, batch, keep))
            print(f"{tokens} tokens, round {number + 1}: {side} {found[side][-1].work}", file=sys.stderr, flush=True)
        _check_same(found["ours"][-1], found["theirs"][-1])
    return found


def _turn(answers: Mapping[str, Any], side: str, tokens: int, batch: int, keep: int) -> Turn:
    answer = answers["theirs" if side == "theirs" else "ours"]
    watch = Stopwatch()
    watch.lap()
    said, scores = answer(tokens, batch, keep if side == "pruned" else None)
    return Turn(watch.lap(), said, scores)


def _check_same(mine: Turn, yours: Turn) -> None:
    different = [name for name in mine.said.keys() | yours.said.keys() if mine.said.get(name) != yours.said.get(name)]
    if different:
        name = different[0]
        raise SystemExit(
            f"{len(different)} answers differ, so there is nothing to compare; the first: {mine.said.get(name)!r} and "
            f"{yours.said.get(name)!r}"
        )
    if mine.scores != yours.scores:
        raise SystemExit(f"scores differ: {mine.scores} and {yours.scores}")


HEADLINE = (
    "answer, tokens", "side", "batch", "s per sample: processor", "clock", "faster: processor", "clock",
    "with start-up: processor", "with start-up and 1000 samples: processor",
)  # fmt: skip


def rows(found: Mapping[str, Sequence[Turn]], start: Mapping[str, float], tokens: int, batch: int) -> list[list[str]]:
    """Medians over the rounds; ratios are medians (ranges) of the ratios within a round.

    Args:
        found: of every side.
        start: processor seconds of a start-up of every side.
        tokens: of an answer.
        batch: of our side.
    """
    samples = len(found["theirs"][0].said)
    made = []
    for side in SIDES:
        own = start["theirs" if side == "theirs" else "ours"]

        def ratio(clock: str, startup: bool = False, times: float = 1, side: str = side, own: float = own) -> str:
            took = [
                (startup * start["theirs"] + times * getattr(yours.work, clock))
                / (startup * own + times * getattr(mine.work, clock))
                for yours, mine in zip(found["theirs"], found[side], strict=True)
            ]
            return f"{statistics.median(took):.2f} ({min(took):.2f}-{max(took):.2f})"

        each = [
            f"{statistics.median(getattr(turn.work, clock) for turn in found[side]) / samples:.2f}"
            for clock in ("cpu", "wall")
        ]
        made.append(
            [str(tokens), side, str(1 if side == "theirs" else batch), *each, ratio("cpu"), ratio("wall"),
             ratio("cpu", True), ratio("cpu", True, 1000 / samples)]
        )  # fmt: skip
    return made


def table(cells: Sequence[Sequence[str]]) -> str:
    """The table as Markdown."""
    lines = [HEADLINE, ["---:", "---", *["---:"] * (len(HEADLINE) - 2)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_batch(answers: Mapping[str, Any], tokens: int, batches: Sequence[int]) -> tuple[int, str]:
    """Our batch with the least processor time, and what every batch took."""
    took = {batch: _turn(answers, "ours", tokens, batch, 0).work.cpu for batch in batches}
    return min(took, key=took.__getitem__), ", ".join(f"batch {batch} {cpu:.1f} s" for batch, cpu in took.items())


def _about(arguments: argparse.Namespace, scans: Sequence[str], start: Mapping[str, Sequence[Work]]) -> str:
    import torch

    from lit_simignore.benchmarks._lmms_tasks import version
    from lit_simignore.engine.environment import device_name, versions

    used, size = versions(), SIZES[arguments.size]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    began = "; ".join(f"{side} {', '.join(f'{work.cpu:.1f}' for work in works)}" for side, works in start.items())
    return (
        f"`against_lmms_eval.py`, {datetime.date.today()}, {device_name(torch.device('cpu'))}, "
        f"{arguments.threads} thread(s), load of the machine {load}; lmms-eval {version()}, torch {used['torch']}, "
        f"transformers {used['transformers']}; decoder of {size.layers} layers, hidden {size.hidden}, CLIP of "
        f"{size.vision_layers} layers, 576 visual tokens, float32; {arguments.samples} samples of POPE's form, "
        f"{arguments.rounds} rounds, median (range). The pruned row is Simignore with {arguments.keep} tokens kept. "
        f"Our batches, processor seconds for all samples: {'; '.join(scans)}. Start-up, processor seconds: {began}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--startups", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=int, default=144, help="visual tokens that Simignore keeps in the extra row")
    parser.add_argument("--write", type=Path, nargs="?", const=HERE / "against_lmms_eval.md")
    parser.add_argument("--start", choices=sorted(START), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.start:
        watch = Stopwatch()
        START[arguments.start](arguments.home)
        print("\n" + json.dumps(asdict(watch.lap())))
        return
    with tempfile.TemporaryDirectory() as folder:
        cells, scans, start = _compare(Path(folder), arguments)
    text = f"{_about(arguments, scans, start)}\n\n{table(cells)}\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(f"# Against lmms-eval\n\n{text}", encoding="utf-8")


def _compare(home: Path, arguments: argparse.Namespace) -> tuple[list[list[str]], list[str], dict[str, list[Work]]]:
    """Rows of the table, what batches took, and start-ups."""
    import torch

    torch.set_num_threads(arguments.threads)
    write_checkpoint(home / "checkpoint", SIZES[arguments.size])
    write_data(home / "data", arguments.samples)
    answers = {side: begin(home) for side, begin in START.items()}
    for answer in answers.values():
        answer(1, 1)  # not counted: whatever is slow only once
    scans, found = [], []
    for tokens in arguments.tokens:
        batch, scan = best_batch(answers, tokens, arguments.batches)
        scans.append(f"{tokens} tokens: {scan}")
        found.append((tokens, batch, measure(answers, tokens, batch, arguments.rounds, arguments.keep)))
    start = startups(home, arguments.threads, arguments.startups)
    middle = {side: statistics.median(work.cpu for work in works) for side, works in start.items()}
    cells = [line for tokens, batch, turns in found for line in rows(turns, middle, tokens, batch)]
    return cells, scans, start


if __name__ == "__main__":
    main()
