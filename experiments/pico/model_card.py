"""Measure the bundled models on scenes they never saw and write their model cards.

    python experiments/pico/model_card.py                    # both models, prints the tables
    python experiments/pico/model_card.py --write            # and puts them into the cards

Every number of the cards comes from here. The run folders go to runs/model-card-*; running it again continues them.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

import lit_simignore as ls
from lit_simignore.benchmarks.shapesqa import TASKS, ShapesQA
from lit_simignore.pruning.base import Features, ScorePruner
from lit_simignore.surgery.load import ASSETS

MODELS = ("pico", "pico-unaligned")
HERE = Path(__file__).resolve().parent
RATIOS = (0.75, 0.5, 0.25, 0.125, 0.0625)
GRID = 12
MARK = "<!-- measured -->"


@dataclass(kw_only=True)
class Oracle(ScorePruner):
    """Keep the patches that the answer needs first, then others at random: what perfect relevance would be worth.

    Reference:
        None: a control that reads the generator's own answer sheet, which is why it lives here and not in the package.
    """

    needed: ClassVar[dict[str, frozenset[int]]] = {}

    def score(self, features: Features) -> Tensor:
        wanted = self.needed.get(features.key, frozenset())
        base = ls.RandomTokens(keep_ratio=1.0).score(features)
        return base + torch.tensor([10.0 * (i in wanted) for i in range(len(base))], device=base.device)


def curves() -> list[ls.Method]:
    """The untouched model, no visual tokens at all, and five rules at five budgets."""
    rules = {
        "simignore": ls.Simignore,
        "oracle": Oracle,
        "random": ls.RandomTokens,
        "stride": ls.Stride,
        "least-similar": ls.LeastSimilar,
    }
    pruned = [
        ls.Method(f"{name}@{ratio:g}", (rule(keep_ratio=ratio),)) for ratio in RATIOS for name, rule in rules.items()
    ]
    return [ls.Method("baseline"), ls.Method("text-only", (ls.TextOnly(),)), *pruned]


def measure(name: str, benchmark: ShapesQA, methods: Sequence[ls.Method], folder: str) -> dict[str, Any]:
    """One evaluation of one bundled model; continues what an earlier call left."""
    Oracle.needed.update({s.sample_id: frozenset(i for n in s.needed for i in n.indices) for s in benchmark.load()})
    model, processor = ls.load(name, dtype=torch.float32)
    settings = ls.EvaluationSettings(
        batch_size=32, report_samples=0, efficiency=None, model_name=name, accelerator="cpu"
    )
    return ls.evaluate(model, processor, benchmark, methods, Path("runs") / folder, settings)


def relevance(name: str, benchmark: ShapesQA, num_samples: int = 600) -> float:
    """Mean AUROC of max-cosine to the prompt for telling needed patches from others, over samples that need some."""
    model, processor = ls.load(name, dtype=torch.float32)
    words = normalize(model.get_input_embeddings().weight.detach(), dim=-1)
    found = []
    for sample in [s for s in benchmark.load() if s.needed][:num_samples]:
        inputs, spans = ls.prepare(processor, [sample])
        with torch.no_grad():
            patches = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
        text = inputs["input_ids"][0][spans.tokens("prompt")[0]]
        score = (normalize(patches, dim=-1) @ words[text].T).amax(-1)
        needed = torch.zeros(GRID * GRID, dtype=torch.bool)
        needed[list(sample.needed[0].indices)] = True
        found.append(_auroc(score, needed))
    return sum(found) / len(found)


def _auroc(score: Tensor, positive: Tensor) -> float:
    wins = (score[positive][:, None] > score[~positive][None]).float()
    ties = (score[positive][:, None] == score[~positive][None]).float()
    return float((wins + 0.5 * ties).mean())


# ---------------------------------------------------------------- tables


def percent(row: Mapping[str, Any]) -> str:
    """``97.1 (95.0-98.4)``."""
    return f"{100 * row['accuracy']:.1f} ({100 * row['ci_low']:.1f}-{100 * row['ci_high']:.1f})"


def kinds_table(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Accuracy by kind of question, untouched and blind."""
    lines = ["| question | n | accuracy % | without visual tokens % |", "|---|---|---|---|"]
    seeing, blind = methods["baseline"]["by_kind"], methods["text-only"]["by_kind"]
    for kind, row in seeing.items():
        lines.append(f"| {kind} | {row['n']} | {100 * row['accuracy']:.1f} | {100 * blind[kind]['accuracy']:.1f} |")
    return lines


def curve_table(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Accuracy (and recall of needed patches) of each rule at each budget."""
    rules = list(dict.fromkeys(name.split("@")[0] for name in methods if "@" in name))
    lines = [f"| kept | {' | '.join(rules)} |", "|---" * (len(rules) + 1) + "|"]
    for ratio in RATIOS:
        cells = [methods[f"{rule}@{ratio:g}"] for rule in rules]
        shown = [f"{100 * c['accuracy']:.1f} [{100 * c['needed_recall']:.0f}] {_star(c)}".strip() for c in cells]
        lines.append(f"| {round(ratio * GRID * GRID)} of {GRID * GRID} | {' | '.join(shown)} |")
    return lines


def _star(row: Mapping[str, Any]) -> str:
    return "*" if row["p_holm"] is not None and row["p_holm"] < 0.05 else ""


def section(name: str, scenes: int) -> str:
    """The measured part of one card."""
    asked = {task: ShapesQA(tasks=[task], num_scenes=scenes) for task in TASKS}
    parts = []
    for task in ("choice", "existence"):
        summary = measure(name, asked[task], curves(), f"model-card-{name}-{task}")
        methods = {row["name"]: row for row in summary["methods"]}
        base, blind = methods["baseline"], methods["text-only"]
        parts += [
            f"### {task}: {percent(base)} % of {base['n']} questions; {percent(blind)} % without visual tokens",
            "",
            *kinds_table(methods),
            "",
            "Accuracy % [needed patches kept, %]; * differs from the untouched model (exact McNemar, Holm, p < 0.05):",
            "",
            *curve_table(methods),
            "",
        ]
    for task in ("caption", "crowded-caption"):
        summary = measure(name, asked[task], [ls.Method("baseline")], f"model-card-{name}-{task}")
        extra = summary["methods"][0]["extra"]
        key = task.replace("-", "_")
        parts += [
            f"### {task}, {scenes} scenes: CHAIR_s {100 * extra[f'{key}_chair_s']:.1f} %, "
            f"CHAIR_i {100 * extra[f'{key}_chair_i']:.1f} %, recall {100 * extra[f'{key}_recall']:.1f} %",
            "",
        ]
    parts += [
        f"AUROC of the maximum cosine between a patch and the words of the prompt, needed against other patches: "
        f"{relevance(name, asked['choice']):.3f} (choice), {relevance(name, asked['existence']):.3f} (existence). "
        "0.5 is chance.",
        "",
    ]
    return "\n".join(parts)


def main() -> None:
    """Print the measured sections; with ``--write`` also put them into the cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=300, help="scenes per task")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--write", action="store_true", help="put it into lit_simignore/assets/*/README.md")
    args = parser.parse_args()
    for name in args.models:
        text = section(name, args.scenes)
        print(f"## {name}\n\n{text}")
        if args.write:
            card = ASSETS / name / "README.md"
            head, _, tail = card.read_text(encoding="utf-8").partition(MARK)
            _, _, tail = tail.partition(MARK)
            card.write_text(f"{head}{MARK}\n\n{text}\n{MARK}{tail}", encoding="utf-8")
    print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}))


if __name__ == "__main__":
    main()
