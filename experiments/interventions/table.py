"""Existence questions and captions of a run, each apart: what every intervention changes against the untouched model.

python eval.py experiment=interventions && python experiments/interventions/table.py runs/interventions --write
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lit_simignore as ls
from lit_simignore.metrics.compare import BASELINE
from lit_simignore.metrics.records import Run, read_run
from lit_simignore.metrics.statistics import Estimate, cluster_interval, holm

PAGE = Path(__file__).resolve().parent / "README.md"
MARK = "<!-- measured -->"
TABLES = {
    "Existence": ("existence", "right, %", {"precision": 100, "recall": 100, "f1": 100, "yes_ratio": 100}),
    "Captions of crowded scenes": (
        "crowded-caption", "without hallucination, %", {"chair_i": 100, "recall": 100, "mean_length": 1},
    ),
}  # fmt: skip
"""Per table: the kinds it is about, what its score means, and the benchmark's own numbers with their factor."""


def part_of(run: Run, kind: str) -> Run:
    """The records of one kind of question."""
    kept = {key: record for key, record in run.predictions.items() if record.kind.startswith(kind)}
    return Run(predictions=kept)


def lines_of(run: Run, kind: str, numbers: dict[str, int], extra: dict[str, dict[str, float]]) -> list[str]:
    """One line per method."""
    part = part_of(run, kind)
    others = [method for method in run.methods if method != BASELINE]
    records = list(part.predictions.values())
    compared = {method: ls.compare(records, records, method_a=BASELINE, method_b=method) for method in others}
    corrected = dict(zip(others, holm([each.p_value for each in compared.values()]), strict=True))
    lines = []
    for method in run.methods:
        answered = list(part.of(method).values())
        scores = [float(record.score or 0) for record in answered]
        cells = [method, spread(cluster_interval(scores, [record.group_id for record in answered]), "")]
        if method == BASELINE:
            cells += ["-", "-", "-"]
        else:
            found, p = compared[method], corrected[method]
            cells += [spread(found.difference, "+"), f"{found.fixed}/{found.broken}"]
            cells.append("<0.001" if p < 0.001 else f"{p:.3f}")
        prefix = kind.replace("-", "_")
        cells += [f"{factor * extra[method][f'{prefix}_{name}']:.1f}" for name, factor in numbers.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(value: Estimate, sign: str) -> str:
    """Mean and interval in per cent."""
    if value.low is None or value.high is None:
        return f"{100 * value.value:{sign}.1f}"
    return f"{100 * value.value:{sign}.1f} ({100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f})"


def page(folder: Path) -> str:
    """Both tables."""
    run, summary = read_run(folder), json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    extra: dict[str, Any] = {row["name"]: row["extra"] for row in summary["methods"]}
    about = summary["run"]
    lines = [f"Measured {about['created'][:10]}, {about['model']}, {about['num_samples']} samples, float32, CPU."]
    for title, (kind, score, numbers) in TABLES.items():
        head = ["method", score, "difference, points", "fixed/broken", "p, Holm", *numbers]
        lines += ["", f"### {title}", "", f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
        lines += lines_of(run, kind, numbers, extra)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run folder")
    parser.add_argument("--write", action="store_true", help="put the tables into this folder's README")
    arguments = parser.parse_args()
    found = page(arguments.run)
    print(found)
    if arguments.write:
        before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text(f"{before}{MARK}\n\n{found}", encoding="utf-8")


if __name__ == "__main__":
    main()
