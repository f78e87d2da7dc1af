"""Does LLaVA-CAM point at the objects that a question needs? And attention, saliency, Simignore's similarity?

    python experiments/flow/cam_on_needed.py                     # both bundled models, prints the tables
    python experiments/flow/cam_on_needed.py --write             # and puts them into README.md beside this file
    python experiments/flow/cam_on_needed.py --scenes 8 --models pico        # does it run?

Scenes of the bundled benchmark know the patches that each answer needs. Two numbers per map and layer, over all
questions that need any: the share of the map's heat on those patches, beside the share of even heat (their area); and
the chance that a needed patch is hotter than another one (AUC), which does not care how peaked a map is: 50 % says
nothing. Intervals are 95 %, bootstrapped over scenes. The model is untouched, the answer its own.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lit_simignore as ls
from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.data.collate import open_sample
from lit_simignore.engine.generation import prompts_of
from lit_simignore.engine.own_answers import own_answers
from lit_simignore.metrics.patches import needed_cover
from lit_simignore.metrics.statistics import Estimate, cluster_interval
from lit_simignore.surgery.flow import information_flow

HERE = Path(__file__).resolve().parent
MARK = "<!-- measured -->"
BATCH = 16
MAPS = {
    "cam": "LLaVA-CAM",
    "released": "LLaVA-CAM, released target and map",
    "last": "attention of the prompt's last token",
    "saliency": "attention × gradient, same token",
    "similarity": "Simignore's similarity",
}


@dataclass(frozen=True)
class Heat:
    """Maps of one sample by name, ``(N, I)`` each (one row where there are no layers), and what its answer needs."""

    sample: ls.Sample
    right: bool
    maps: dict[str, Tensor]
    cover: Tensor


def heats(model: Any, processor: Any, samples: Sequence[ls.Sample], benchmark: ShapesQA) -> Iterator[Heat]:
    """Maps of all samples that need patches."""
    wanted = [sample for sample in samples if sample.needed]
    for start in range(0, len(wanted), BATCH):
        opened = [open_sample(sample) for sample in wanted[start : start + BATCH]]
        prompts = prompts_of(processor, [o.sample for o in opened], [o.images for o in opened], model)
        texts, tokens = own_answers(model, processor, prompts, benchmark.max_new_tokens)
        similar = _similarity(model, prompts)
        asked = {"spans": prompts.spans, "queries": "prompt"}
        flows = information_flow(model, prompts.inputs, tokens, **asked)
        released = information_flow(model, prompts.inputs, tokens, mode="released", **asked)
        for row, (sample, text, flow, old) in enumerate(zip(prompts.samples, texts, flows, released, strict=True)):
            cover = needed_cover(sample.needed, flow.grids)
            assert cover is not None and flow.cam is not None and old.cam is not None and flow.saliency is not None
            maps = {
                "cam": flow.cam, "released": old.cam, "last": flow.attention.mean(dim=1), "saliency": flow.saliency,
                "similarity": similar[row][None],
            }  # fmt: skip
            yield Heat(sample, benchmark.score(benchmark.parse(text, sample), sample) == 1, maps, cover)


def _similarity(model: Any, prompts: Any) -> list[Tensor]:
    """Simignore's scores of all visual tokens: the largest cosine to any token of the text, negative ones as none."""
    with torch.no_grad(), ls.attach(model, ls.Simignore(keep_ratio=1.0), spans=prompts.spans) as trace:
        model(**prompts.inputs)
    return [scores.clamp(min=0).cpu() for scores in trace.stages[0].scores]  # type: ignore[union-attr]


def share(heat: Tensor, cover: Tensor) -> float:
    """Share of the heat on what is needed; NaN for a map of zeros."""
    return float((heat.double() @ cover) / heat.double().sum())


def auc(heat: Tensor, cover: Tensor) -> float:
    """Chance that a needed token is hotter than one that is not needed; ties count a half."""
    needed = cover >= 0.5
    pairs = heat[needed][:, None] - heat[~needed]
    return float(((pairs > 0).double() + 0.5 * (pairs == 0)).mean())


def interval(values: Sequence[float], groups: Sequence[str]) -> Estimate | None:
    """Mean over what is known, with its interval over scenes."""
    known = [(value, group) for value, group in zip(values, groups, strict=True) if value == value]
    return cluster_interval(*zip(*known, strict=True), seed=0) if known else None


def percent(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def times(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    return f"{found.value:.2f} ({found.low:.2f}-{found.high:.2f})"


def table(found: Sequence[Heat]) -> str:
    """A row per map and layer."""
    groups = [heat.sample.group_id for heat in found]
    even = [float(heat.cover.mean()) for heat in found]
    lines = [
        "| map | layer | heat on needed patches, % | times even heat | maps of zeros | AUC, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        f"| even heat | - | {percent(interval(even, groups))} | 1.00 | - | 50.0 |",
    ]
    for name, title in MAPS.items():
        for index in range(len(found[0].maps[name])):
            layers = [heat.maps[name][index] for heat in found]
            shares = [share(layer, heat.cover) for layer, heat in zip(layers, found, strict=True)]
            ratio = interval([s / e if s == s else s for s, e in zip(shares, even, strict=True)], groups)
            zeros = sum(s != s for s in shares)
            areas = interval([auc(layer, heat.cover) for layer, heat in zip(layers, found, strict=True)], groups)
            place = "input" if name == "similarity" else str(index)
            cells = [percent(interval(shares, groups)), times(ratio), str(zeros), percent(areas if ratio else None)]
            lines.append(f"| {title} | {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_kind(found: Sequence[Heat]) -> str:
    """CAM by kind of question, in the two layers where it is most on the needed patches, beside similarity."""
    groups = [heat.sample.group_id for heat in found]
    layers = range(len(found[0].maps["cam"]) - 1)
    means = {k: interval([share(heat.maps["cam"][k], heat.cover) for heat in found], groups) for k in layers}
    best = sorted(layers, key=lambda k: -(means[k].value if means[k] is not None else 0.0))[:2]  # type: ignore[union-attr]
    head = " | ".join(f"CAM, layer {k}" for k in best)
    lines = [f"| questions | n | right, % | even | {head} | similarity |", "| --- |" + " ---: |" * (len(best) + 4)]
    kinds = sorted({heat.sample.kind for heat in found})
    for kind in [*kinds, "answered right", "answered wrong"]:
        some = [h for h in found if h.sample.kind == kind or (kind == f"answered {'right' if h.right else 'wrong'}")]
        if not some:
            continue
        names = [heat.sample.group_id for heat in some]
        cells = [percent(interval([share(h.maps["cam"][k], h.cover) for h in some], names)) for k in best]
        similar = percent(interval([share(h.maps["similarity"][0], h.cover) for h in some], names))
        even = 100 * sum(float(h.cover.mean()) for h in some) / len(some)
        right = 100 * sum(h.right for h in some) / len(some)
        lines.append(f"| {kind} | {len(some)} | {right:.0f} | {even:.1f} | {' | '.join(cells)} | {similar} |")
    return "\n".join(lines)


def measure(name: str, scenes: int, seed: int) -> str:
    """The tables of one model."""
    model, processor = ls.load(name)
    benchmark = ShapesQA(num_scenes=max(scenes // 2, 1), seed=seed)
    found = list(heats(model, processor, benchmark.load(), benchmark))
    total, right = len(found), sum(heat.right for heat in found)
    where = len({heat.sample.group_id for heat in found})
    head = f"### {name}\n\n{total} questions about {where} scenes, {100 * right / total:.1f} % answered right."
    return f"{head}\n\n{table(found)}\n\nHeat on needed patches by kind of question, %:\n\n{by_kind(found)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["pico", "pico-unaligned"])
    parser.add_argument("--scenes", type=int, default=200, help="half of them with multiple choice, half existence")
    parser.add_argument("--seed", type=int, default=4242, help="of the scenes; not that of the model card")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    asked = parser.parse_args(argv)
    command = f"`cam_on_needed.py --scenes {asked.scenes} --seed {asked.seed}`"
    head = f"Measured {datetime.date.today().isoformat()} by {command}, float32, CPU, torch {torch.__version__}."
    text = "\n\n".join([head, *(measure(name, asked.scenes, asked.seed) for name in asked.models)])
    print(text)
    if asked.write:
        readme = HERE / "README.md"
        before = readme.read_text(encoding="utf-8").split(MARK)[0]
        readme.write_text(f"{before}{MARK}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
