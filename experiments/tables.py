"""From a run of an experiment on a small model to what its folder commits: the tables of its README, and selections.

python eval.py experiment=simignore_table2 model=pico && python experiments/tables.py runs/simignore_table2-pico --write

The overlay's name is read off the command that the run remembers. ``--write`` replaces what stands between the README's
marks and writes ``<model>.json``: every method's scores sample by sample, and the kept tokens of the first samples.
``tests/experiments/test_committed.py`` compares with it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lit_simignore as ls
from lit_simignore.metrics.compare import BASELINE
from lit_simignore.metrics.records import Run, read_run
from lit_simignore.metrics.statistics import Estimate, cluster_interval, holm
from lit_simignore.types import Prediction, UserError

HERE = Path(__file__).resolve().parent
NUM_SELECTIONS = 2
"""Samples whose kept tokens are committed."""

RIVALS = ("simignore", "random")
"""Compared with each other wherever both are in a run at the same settings."""

PERCENT = ("accuracy", "precision", "recall", "f1", "yes_ratio", "chair_i", "chair_s")
Rows = list[list[str]]


# ---------------------------------------------------------------- numbers in words


def spread(value: Estimate, sign: str = "") -> str:
    """Mean and interval in per cent."""
    mean = f"{100 * value.value:{sign}.1f}"
    if value.low is None or value.high is None:
        return mean
    return f"{mean} ({100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f})"


def chance(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def ranges(indices: Iterable[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def markdown(title: str, head: Sequence[str], rows: Rows) -> list[str]:
    line = "| --- |" + " ---: |" * (len(head) - 1)
    heading = [f"### {title}", ""] if title else []
    return [*heading, f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows), ""]


# ---------------------------------------------------------------- tables


def main_table(summary: Mapping[str, Any]) -> list[str]:
    """Every method against the untouched model."""
    head = ["method", "right, %", "difference, points", "fixed/broken", "p, Holm", "tokens in/out/mean"]
    head += ["needed kept, %", "prefill GFLOPs"]
    rows = []
    for row in summary["methods"]:
        spent = row["budget"]
        accuracy = spread(Estimate(row["accuracy"], row["ci_low"], row["ci_high"]))
        cells = [row["name"], accuracy, "-", "-", "-"]
        if row["p_value"] is not None:
            delta = Estimate(row["delta"], row["delta_low"], row["delta_high"])
            cells[2:] = [spread(delta, "+"), f"{row['fixed']}/{row['broken']}", chance(row["p_holm"])]
        cells.append("/".join(f"{spent[name]:.3g}" for name in ("input", "final", "layer_mean")))
        cells.append("-" if row["needed_recall"] is None else f"{100 * row['needed_recall']:.1f}")
        rows.append([*cells, f"{1000 * spent['prefill_tflops']:.3f}"])
    return markdown("", head, rows)


def kind_table(run: Run) -> list[str]:
    """Accuracy by kind of question, where there are several."""
    kinds = sorted({kind_of(record) for record in run.predictions.values()})
    if len(kinds) < 2:
        return []
    rows = []
    for method in run.methods:
        records = list(run.of(method).values())
        cells = [method]
        for kind in kinds:
            scores = [float(record.score or 0) for record in records if kind_of(record) == kind]
            cells.append(f"{100 * sum(scores) / len(scores):.1f}" if scores else "-")
        rows.append(cells)
    sizes = {kind: sum(kind_of(record) == kind for record in run.of(run.methods[0]).values()) for kind in kinds}
    return markdown("Right by kind of question, %", ["method", *(f"{kind} ({sizes[kind]})" for kind in kinds)], rows)


def kind_of(record: Prediction) -> str:
    """The kinds of negatives of existence questions are one kind."""
    return "existence" if record.kind.startswith("existence") else record.kind


def extra_table(summary: Mapping[str, Any]) -> list[str]:
    """The benchmark's own numbers."""
    names = list(dict.fromkeys(name for row in summary["methods"] for name in row["extra"]))
    if not names:
        return []
    rows = []
    for row in summary["methods"]:
        values = [row["extra"].get(name) for name in names]
        factors = [100 if name.endswith(PERCENT) else 1 for name in names]
        known = zip(values, factors, strict=True)
        rows.append([row["name"], *("-" if value is None else f"{factor * value:.1f}" for value, factor in known)])
    return markdown("The benchmark's own numbers", ["method", *(name.replace("_", " ") for name in names)], rows)


def rival_table(run: Run) -> list[str]:
    """Simignore against random tokens, wherever a run has both at the same settings."""
    ours, theirs = RIVALS
    pairs = [(m, m.replace(ours, theirs, 1)) for m in run.methods if re.match(rf"{ours}@", m)]
    pairs = [(mine, other) for mine, other in pairs if other in run.methods and not mine.endswith(("@0", "=0"))]
    found = [compared(run, other, mine) for mine, other in pairs]
    corrected = holm([each.p_value for each in found])
    rows = [
        [mine, other, spread(each.difference, "+"), f"{each.fixed}/{each.broken}", chance(p)]
        for (mine, other), each, p in zip(pairs, found, corrected, strict=True)
    ]
    head = ["method", "against", "difference, points", "fixed/broken", "p, Holm"]
    return markdown("Simignore against random tokens", head, rows) if rows else []


def compared(run: Run, method_a: str, method_b: str) -> Any:
    records = list(run.predictions.values())
    return ls.compare(records, records, method_a=method_a, method_b=method_b)


def interaction_table(run: Run) -> list[str]:
    """Whether the effects of two parts add up: both, less each alone, plus neither. Zero means that they do."""
    rows = []
    for name in run.methods:
        parts = name.split("+")
        if len(parts) == 2 and set(parts) <= set(run.methods):
            rows.append([name, *(effect(run, part) for part in (*parts, name)), spread(interaction(run, name), "+")])
    head = ["method", "first alone", "second alone", "both", "interaction"]
    return markdown("Do the two add up? Points against the untouched model", head, rows) if rows else []


def effect(run: Run, method: str) -> str:
    return f"{100 * compared(run, BASELINE, method).difference.value:+.1f}"


def interaction(run: Run, name: str) -> Estimate:
    """``both - first - second + neither`` over the same samples, with an interval that draws whole groups."""
    columns = [run.of(method) for method in (name, *name.split("+"), BASELINE)]
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    scored = [key for key in shared if all(column[key].score is not None for column in columns)]
    values = [
        sum(sign * float(column[key].score or 0) for sign, column in zip((1, -1, -1, 1), columns, strict=True))
        for key in scored
    ]
    return cluster_interval(values, [columns[0][key].group_id for key in scored])


def cluster_table(run: Run, folder: Path) -> list[str]:
    """What leaving clusters of visual tokens out did to the answers, with ``analysis=flow``."""
    path = folder / "flow" / "flow.json"
    if not path.exists():
        return []
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    before = {sample: bool(record.score) for sample, record in run.of(BASELINE).items()}
    sets = [
        (before[entry["sample_id"]], len(each["clusters"]), each["verdict"])
        for entry in parts.get("samples", {}).get("samples", ())
        for each in entry.get("ablation", ())
        if each["clusters"] and each["verdict"]
    ]
    rows = []
    for was_right in (True, False):
        for size in (1, 2):
            words = [verdict for right, count, verdict in sets if right == was_right and count == size]
            turned = sum(word != "neutral" for word in words)
            share = f"{100 * turned / len(words):.1f}" if words else "-"
            rows.append(["right" if was_right else "wrong", str(size), str(len(words)), str(turned), share])
    head = ["answer before", "clusters left out", "sets tried", "answers turned", "%"]
    return markdown("Clusters of visual tokens left out", head, rows) if sets else []


# ---------------------------------------------------------------- what is committed


def page(folder: Path) -> str:
    """All tables of a run."""
    run, summary = answered(folder), read_summary(folder)
    about = summary["run"]
    hardware = about.get("hardware") or {}
    lines = [
        f"`{command_of(about)}`, {about['created'][:10]}: {about['model']}, {about['num_samples']} samples, "
        f"{hardware.get('cpu') or hardware.get('device') or 'CPU'}, float32.",
        "",
        *main_table(summary),
        *rival_table(run),
        *interaction_table(run),
        *kind_table(run),
        *extra_table(summary),
        *cluster_table(run, folder),
    ]
    return "\n".join(lines).rstrip() + "\n"


def command_of(about: Mapping[str, Any]) -> str:
    """The command as a user would type it: without what only decides where it was run and what it showed."""
    return "python " + re.sub(r" (trainer\.progress|run\.dir)=\S+", "", about["command"])


def answered(folder: Path) -> Run:
    """The records of the samples that every method of the table has answered."""
    run, names = read_run(folder), [row["name"] for row in read_summary(folder)["methods"]]
    shared = set.intersection(*(set(run.of(name)) for name in names))
    kept = {key: record for key, record in run.predictions.items() if key[0] in shared and key[1] in names}
    return Run(predictions=kept)


def committed(folder: Path) -> dict[str, Any]:
    """Scores of every method and kept tokens of the first samples."""
    run, summary = answered(folder), read_summary(folder)
    samples = sorted({sample for sample, _ in run.predictions})
    shown = [sample for sample in samples if all(run.of(m)[sample].kept is not None for m in run.methods)]
    about = summary["run"]
    return {
        "command": command_of(about),
        "date": about["created"][:10],
        "samples": samples,
        "scores": {method: "".join(digit(run.of(method)[sample]) for sample in samples) for method in run.methods},
        "kept": {
            sample: {method: ranges(run.of(method)[sample].kept or ()) for method in run.methods}
            for sample in shown[:NUM_SELECTIONS]
        },
    }


def digit(record: Prediction) -> str:
    """1 right, 0 wrong, - without a score; a tenth for what is partly right."""
    if record.score is None or record.error is not None:
        return "-"
    return str(round(record.score)) if record.score in (0, 1) else "p"


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if not summary["run"]["complete"]:
        raise UserError(f"{folder} is not complete; run its command again")
    return summary


def overlay_of(folder: Path) -> str:
    """The name of the overlay that the run was started with."""
    found = re.search(r"experiment=([\w./-]+)", read_summary(folder)["run"]["command"])
    if found is None:
        raise UserError(f"{folder} was not started with experiment=...; name it with --experiment")
    return found[1]


def write(folder: Path, overlay: str) -> None:
    """Put the tables into the README of the overlay's folder, and the JSON file beside it."""
    name, _, part = overlay.partition("/")
    model = read_summary(folder)["run"]["model"]
    readme = HERE / name / "README.md"
    mark = f"<!-- {model}{f' {part}' if part else ''} -->"
    text = readme.read_text(encoding="utf-8")
    if text.count(mark) != 2:
        raise UserError(f"expected {mark} twice in {readme.name} of {name}, around the table; got {text.count(mark)}")
    before, _, after = text.split(mark)
    readme.write_text(f"{before}{mark}\n\n{page(folder)}\n{mark}{after}", encoding="utf-8")
    target = HERE / name / f"{f'{part}.' if part else ''}{model}.json"
    target.write_text(json.dumps(committed(folder), indent=0) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="finished run folders")
    parser.add_argument("--experiment", help="name of the overlay, where the run does not say")
    parser.add_argument("--write", action="store_true", help="write what the folder commits")
    arguments = parser.parse_args()
    for folder in arguments.runs:
        print(page(folder))
        if arguments.write:
            write(folder, arguments.experiment or overlay_of(folder))


if __name__ == "__main__":
    main()
