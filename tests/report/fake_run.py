"""A made-up run folder for the tests of the report, and for looking at it: ``python fake_run.py FOLDER [--evil]``."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

KINDS = ("colour", "shape", "count", "left of / right of", "existence")
COLOURS = {"red": "#d33", "green": "#3a5", "blue": "#36c", "yellow": "#ec3", "purple": "#94b", "orange": "#f83"}
SHAPES = ("circle", "square", "triangle")

EVIL = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    '" onmouseover="alert(3)" x="',
    "' autofocus onfocus='alert(4)",
    "</style><svg onload=alert(5)>",
    "<!-- -->]]>&lt;b&gt;&#60;i&#62; javascript:alert(6)",
    "\u2028\u2029\x00\x1b[2J\x07\ufffe",
    "\u202egnp.exe 🦊👩‍👩‍👧 한국어 العربية",
    "\ud800 lone surrogate",
)
"""Strings that break pages, terminals or encoders when they get through as they are."""


@dataclass(frozen=True)
class FakeMethod:
    """Made-up behaviour: what share of right answers a method breaks, of wrong ones it fixes, and what it costs."""

    name: str
    breaks: float
    fixes: float
    kept: int
    layer_mean: float
    ms: float | None = None


STANDARD = (
    FakeMethod("baseline", 0, 0, 144, 144, 2.05),
    FakeMethod("simignore@72", 0.02, 0.04, 72, 72, 1.24),
    FakeMethod("simignore@36", 0.09, 0.07, 36, 36, 0.86),
    FakeMethod("simignore@18", 0.20, 0.08, 18, 18, 0.66),
    FakeMethod("random@72", 0.09, 0.05, 72, 72, 1.2),
    FakeMethod("random@36", 0.24, 0.08, 36, 36, 0.84),
    FakeMethod("random@18", 0.36, 0.1, 18, 18, 0.65),
    FakeMethod("fastv@36", 0.01, 0.01, 36, 90, 1.55),
    FakeMethod("eah", 0.03, 0.12, 144, 144, 2.3),
)


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p, written a second time so that the fake needs nothing of the package."""
    flips, fewer = fixed + broken, min(fixed, broken)
    return min(1.0, 2 * sum(math.comb(flips, k) for k in range(fewer + 1)) / 2**flips)


def holm(values: Sequence[float]) -> list[float]:
    """Step-down correction."""
    order, found, running = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(values) - rank) * values[index]))
        found[index] = running
    return found


def wilson(right: int, n: int) -> tuple[float, float]:
    """Score interval at 95%."""
    z2 = 1.96**2
    centre, half = (right + z2 / 2) / (n + z2), math.sqrt(z2 * (right * (n - right) / n + z2 / 4)) / (n + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def build_run(
    folder: Path,
    *,
    methods: Sequence[FakeMethod] = STANDARD,
    num_samples: int = 400,
    num_shown: int = 24,
    grid: tuple[int, int] = (12, 12),
    evil: bool = False,
    pictures: bool = True,
    complete: bool = True,
    seed: int = 3,
) -> Path:
    """Write summary, records, pictures and configuration of a run that never was."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    samples = [_sample(index, draw, evil) for index in range(num_samples)]
    records = [
        _record(sample, method, draw, index < num_shown, grid, evil)
        for index, sample in enumerate(samples)
        for method in methods
    ]
    if pictures:
        _write_pictures(folder, samples[:num_shown], grid)
    half = len(records) // 2
    for name, part in (("0-a", records[:half]), ("1-b", records[half:])):
        lines = "".join(json.dumps(record) + "\n" for record in part)
        (folder / f"predictions-{name}.jsonl").write_text(lines, encoding="utf-8")
    summary = _summary(records, methods, num_samples, complete, evil)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    config = "model: pico\nbenchmark: pico_vqa\nmethods: [baseline, simignore]\nreport: {samples: 24}\n"
    (folder / "config.yaml").write_text(config + (f"note: {EVIL[1]}\n" if evil else ""), encoding="utf-8")
    return folder


def many_methods(number: int) -> tuple[FakeMethod, ...]:
    """The baseline and ``number - 1`` methods of the same cost."""
    made = [
        FakeMethod(f"method-{index:02d}@part.num_keep=36", 0.005 * index, 0.06, 36, 36) for index in range(number - 1)
    ]
    return (STANDARD[0], *made)


def _sample(index: int, draw: random.Random, evil: bool) -> dict[str, Any]:
    kind = KINDS[draw.choices(range(len(KINDS)), weights=(5, 4, 3, 2, 4))[0]]
    scene = [
        (draw.choice(list(COLOURS)), draw.choice(SHAPES), draw.randrange(4), draw.randrange(4))
        for _ in range(draw.randint(3, 6))
    ]
    colour, shape, *_ = scene[0]
    choices = draw.sample(list(COLOURS), 3)
    if colour not in choices:
        choices[draw.randrange(3)] = colour
    letters = "ABC"
    prompt = f"What colour is the {shape}?\n" + "\n".join(f"({letters[i]}) {text}" for i, text in enumerate(choices))
    if evil:
        prompt, kind = f"{EVIL[index % len(EVIL)]} {prompt}", f"{kind} {EVIL[index % 3]}"
        choices[0] = EVIL[index % len(EVIL)]
    return {
        "sample_id": f"scene-{index // 2:04d}-q{index % 2}" + (EVIL[index % 8] if evil else ""),
        "group_id": f"scene-{index // 2:04d}",
        "prompt": prompt,
        "answer": letters[choices.index(colour)] if colour in choices else "A",
        "kind": kind,
        "choices": choices,
        "scene": scene,
        "easy": draw.random() < 0.71,
    }


def _record(
    sample: dict[str, Any], method: FakeMethod, draw: random.Random, shown: bool, grid: tuple[int, int], evil: bool
) -> dict[str, Any]:
    total = grid[0] * grid[1]
    changed = draw.random() < (method.breaks if sample["easy"] else method.fixes)
    right = sample["easy"] != changed
    parsed = sample["answer"] if right else draw.choice([letter for letter in "ABC" if letter != sample["answer"]])
    output = f"{parsed}" if draw.random() < 0.7 else f"The answer is {parsed}."
    if evil:
        output = draw.choice(EVIL) * draw.choice((1, 1, 400))
    failed = evil and draw.random() < 0.05
    kept = sorted(_kept(sample, method, draw, grid)) if shown else None
    return {
        **{key: sample[key] for key in ("sample_id", "group_id", "prompt", "answer", "kind", "choices")},
        "method": method.name,
        "output": "" if failed else output,
        "parsed": None if failed else parsed,
        "score": None if failed else float(right),
        "num_visual_tokens": total,
        "num_kept": round(total * method.kept / 144),
        "batch_size": 16,
        "latency_ms": 3.1,
        "error": f"RuntimeError: {EVIL[1]}" if failed else None,
        "attempt": "a",
        "kept": None if shown and method.kept == 144 else kept,
        "needed_recall": min(1.0, method.kept / 144 + (0.35 if "simignore" in method.name else 0)),
    }


def _kept(sample: dict[str, Any], method: FakeMethod, draw: random.Random, grid: tuple[int, int]) -> list[int]:
    """Patches near the objects for the careful methods, any for the random one."""
    near = _nearness(sample, grid)
    careful = 0 if method.name.startswith("random") else 1
    worth = [careful * each + 0.25 * draw.random() for each in near]
    return sorted(range(len(near)), key=worth.__getitem__, reverse=True)[: round(len(near) * method.kept / 144)]


def _nearness(sample: dict[str, Any], grid: tuple[int, int]) -> list[float]:
    """Minus the distance of every patch to its nearest object; the same for all methods."""
    rows, cols = grid
    if "near" not in sample:
        centres = [(col + 0.5, row + 0.5) for _, _, row, col in sample["scene"]]
        places = [((x + 0.5) / cols * 4, (y + 0.5) / rows * 4) for y in range(rows) for x in range(cols)]
        sample["near"] = [-min(math.hypot(x - cx, y - cy) for cx, cy in centres) for x, y in places]
    return sample["near"]


def _write_pictures(folder: Path, samples: Sequence[dict[str, Any]], grid: tuple[int, int]) -> None:
    (folder / "media").mkdir(exist_ok=True)
    index = {}
    for number, sample in enumerate(samples):
        file = f"media/{number:04d}.png"
        draw_scene(sample["scene"], (8 * grid[1], 8 * grid[0])).save(folder / file)
        index[sample["sample_id"]] = [{"file": file, "rows": grid[0], "cols": grid[1]}]
    (folder / "media" / "index.json").write_text(json.dumps(index), encoding="utf-8")


def draw_scene(scene: Sequence[tuple[str, str, int, int]], size: tuple[int, int]) -> Image.Image:
    """Coloured shapes on a four by four board."""
    image = Image.new("RGB", size, "#e9e4da")
    pen = ImageDraw.Draw(image)
    width, height = size[0] / 4, size[1] / 4
    for colour, shape, row, col in scene:
        box = (col * width + 3, row * height + 3, (col + 1) * width - 4, (row + 1) * height - 4)
        if shape == "circle":
            pen.ellipse(box, COLOURS[colour])
        elif shape == "square":
            pen.rectangle(box, COLOURS[colour])
        else:
            pen.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], COLOURS[colour])
    return image


def _summary(
    records: Sequence[dict[str, Any]], methods: Sequence[FakeMethod], num_samples: int, complete: bool, evil: bool
) -> dict[str, Any]:
    entries = [_entry(method, records, has_baseline=methods[0].name == "baseline") for method in methods]
    tested = [entry for entry in entries if entry["p_value"] is not None]
    for entry, corrected in zip(tested, holm([entry["p_value"] for entry in tested]), strict=True):
        entry["p_holm"] = corrected
    run = {
        "name": "pico-pico_vqa-3f9a1c",
        "model": f"pico {EVIL[0]}" if evil else "pico",
        "benchmark": f"pico_vqa {EVIL[2]}" if evil else "pico_vqa",
        "protocol": EVIL[1] if evil else "pico_vqa-v1",
        "num_samples": num_samples,
        "complete": complete,
        "seed": 0,
        "created": "2026-11-21T02:41:00+00:00",
        "command": f"python eval.py budgets=[72,36,18] {EVIL[3] if evil else ''}".strip(),
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": EVIL[4] if evil else "5.23.0"},
        "hardware": {"device": "cpu", "cpu": "2 cores", "memory_gib": 8},
    }
    return {"run": run, "methods": entries}


def _entry(method: FakeMethod, records: Sequence[dict[str, Any]], has_baseline: bool) -> dict[str, Any]:
    mine = {record["sample_id"]: record for record in records if record["method"] == method.name}
    base = {record["sample_id"]: record for record in records if record["method"] == "baseline"} if has_baseline else {}
    scores = [record["score"] for record in mine.values() if record["score"] is not None]
    pairs = [
        (base[key]["score"], record["score"])
        for key, record in mine.items()
        if key in base and None not in (base[key]["score"], record["score"])
    ]
    delta, half = _paired_interval(pairs)
    fixed, broken = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    compared = has_baseline and method.name != "baseline"
    low, high = wilson(round(sum(scores)), len(scores)) if scores else (None, None)
    tflops = 3.2e-4 * (0.2 + 0.8 * method.layer_mean / 144)
    return {
        "name": method.name,
        "n": len(scores),
        "errors": sum(record["error"] is not None for record in mine.values()),
        "unparsed": sum(record["parsed"] is None and record["error"] is None for record in mine.values()),
        "accuracy": sum(scores) / len(scores) if scores else None,
        "ci_low": low,
        "ci_high": high,
        "delta": delta if compared else None,
        "delta_low": delta - half if compared else None,
        "delta_high": delta + half if compared else None,
        "p_value": mcnemar(fixed, broken) if compared else None,
        "p_holm": None,
        "fixed": fixed if compared else None,
        "broken": broken if compared else None,
        "same_output": sum(base[key]["output"] == record["output"] for key, record in mine.items())
        if compared
        else None,
        "needed_recall": sum(record["needed_recall"] for record in mine.values()) / len(mine) if mine else None,
        "budget": {
            "total": 144.0,
            "input": 144.0 if method.name.startswith("fastv") else float(method.kept),
            "final": float(method.kept),
            "layer_mean": method.layer_mean,
            "flops": method.layer_mean,
            "prefill_tflops": tflops,
        },
        "by_kind": _by_kind(mine.values()),
        "extra": {"f1": 0.7123 - method.breaks},
        "efficiency": _efficiency(method),
    }


def _paired_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean difference and half its interval by the normal approximation."""
    if not pairs:
        return 0.0, 0.0
    differences = [after - before for before, after in pairs]
    mean = sum(differences) / len(pairs)
    return mean, 1.96 * math.sqrt(sum((each - mean) ** 2 for each in differences)) / len(pairs)


def _by_kind(records: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, list[float]] = {}
    for record in records:
        if record["score"] is not None:
            found.setdefault(record["kind"], []).append(record["score"])
    return {kind: {"n": len(scores), "accuracy": sum(scores) / len(scores)} for kind, scores in found.items()}


def _efficiency(method: FakeMethod) -> dict[str, Any] | None:
    if method.ms is None:
        return None
    return {
        "batch_size": 16,
        "vision_ms": 1.18,
        "prefill_ms": method.ms,
        "prefill_ms_p10": method.ms * 0.96,
        "prefill_ms_p90": method.ms * 1.07,
        "decode_tokens_per_s": 410.0,
        "pruner_ms": 0.03,
        "kv_cache_mib": 0.9 * method.kept / 144,
        "peak_memory_mib": None,
        "speedup_prefill": 2.05 / method.ms,
    }


if __name__ == "__main__":
    print(build_run(Path(sys.argv[1]), evil="--evil" in sys.argv))
