"""Does training with pruning teach the bundled model to live with fewer visual tokens, and which pruning is best?

    python experiments/finetune-pico/run.py                       # trainings that are missing, then the table
    python experiments/finetune-pico/run.py --seeds 0 --regimes simignore --limit 100 training.steps=20
    python experiments/finetune-pico/run.py --table               # the table of what is there

Regimes: no training; trained on all visual tokens; with Simignore or random tokens at a quarter; with Simignore, the
share falling from all to a quarter over the first half. Each trained model answers the held-out test at 100, 50, 25 and
12 % of the tokens, chosen by Simignore. Every training is that of ``train.py``, so the same command continues after an
interruption, and finished ones are not repeated.

Accuracy is the mean over seeds; its interval is a bootstrap over test scenes of every sample's mean over seeds, so it
says how far another test would move it. Differences to no training are paired over the same samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lit_simignore import cli
from lit_simignore.metrics.records import read_run
from lit_simignore.metrics.statistics import cluster_bootstrap, cluster_interval
from lit_simignore.types import Prediction

QUARTER = "keep_ratio=0.25"
REGIMES: Mapping[str, tuple[str, ...]] = {
    "dense": ("pruning=baseline",),
    "simignore": (f"pruning=simignore@{QUARTER}",),
    "random": (f"pruning=random@{QUARTER}",),
    "annealed": (f"pruning=simignore@{QUARTER}", "schedule.kind=annealed"),
}
METHODS = ("baseline", "simignore@keep_ratio=0.5", f"simignore@{QUARTER}", "simignore@keep_ratio=0.12")
SHARES = ("100 %", "50 %", "25 %", "12 %")
UNTRAINED = "no training"


def folder_of(runs: Path, regime: str, seed: int) -> Path:
    """Where the answers of a regime are."""
    return runs / "untrained" if regime == UNTRAINED else runs / f"{regime}-{seed}" / "after"


def train(runs: Path, regime: str, seed: int, limit: int | None, more: Sequence[str]) -> int:
    """One training with its evaluation, or the evaluation of the untrained model."""
    shared = [f"run.dir={runs}", *([] if limit is None else [f"benchmark.limit={limit}"])]
    asked = f"[{','.join(METHODS)}]"
    if regime == UNTRAINED:
        return cli.eval_main([f"methods={asked}", "run.name=untrained", "efficiency.samples=0", *shared])
    own = [*REGIMES[regime], f"outcome.methods={asked}", "outcome.before=false", f"seed={seed}"]
    return cli.train_main([*own, f"run.name={regime}-{seed}", *shared, *more])


def answers(runs: Path, regime: str, seeds: Sequence[int], method: str) -> list[dict[str, Prediction]]:
    """Records by sample, one mapping per seed that is there and whole."""
    found = []
    for seed in [0] if regime == UNTRAINED else seeds:
        folder = folder_of(runs, regime, seed)
        if (folder / "summary.json").is_file():
            found.append(read_run(folder).of(method))
    return found


def cell(trained: Sequence[Mapping[str, Prediction]], untrained: Mapping[str, Prediction]) -> str:
    """Accuracy with its interval, and the paired difference to the untrained model at the same share."""
    samples = sorted(untrained.keys() & set.intersection(*(set(records) for records in trained)))
    scores = [fmean(float(records[name].score or 0) for records in trained) for name in samples]
    groups = [untrained[name].group_id for name in samples]
    mean, low, high = cluster_interval(scores, groups)
    text = f"{100 * mean:.1f} [{100 * (low or 0):.1f}, {100 * (high or 1):.1f}]"
    before = [float(untrained[name].score or 0) for name in samples]
    value, least, most = cluster_bootstrap(before, scores, groups)
    return f"{text}, {100 * value:+.1f} [{100 * (least or 0):+.1f}, {100 * (most or 0):+.1f}]"


def table(runs: Path, seeds: Sequence[int]) -> str:
    """The table in Markdown; what was not run says so."""
    lines = [f"| | seeds | {' | '.join(SHARES)} |", f"|---|---|{'---|' * len(SHARES)}"]
    for regime in (UNTRAINED, *REGIMES):
        found = {method: answers(runs, regime, seeds, method) for method in METHODS}
        base = {method: answers(runs, UNTRAINED, seeds, method) for method in METHODS}
        if not all(base.values()) or not all(found.values()):
            lines.append(f"| {regime} | 0 | {' | '.join(['not run'] * len(SHARES))} |")
            continue
        cells = [cell(found[method], base[method][0]) for method in METHODS]
        lines.append(f"| {regime} | {len(found[METHODS[0]])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/finetune-pico"), help="folder of the run folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument("--limit", type=int, help="test samples; all 599 without it")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    parser.add_argument("more", nargs="*", help="key=value for train.py, the same for all regimes")
    wish = parser.parse_args()
    if not wish.table:
        for regime, seed in [(UNTRAINED, 0), *((r, s) for s in wish.seeds for r in wish.regimes)]:
            status = train(wish.runs, regime, seed, wish.limit, wish.more)
            if status:
                return status
    print(table(wish.runs, wish.seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
