"""Does training with pruning teach the bundled model to live with fewer visual tokens, and which pruning is best?

    python experiments/finetune-pico/run.py                       # trainings that are missing, then the table
    python experiments/finetune-pico/run.py --seeds 0 --regimes simignore --limit 100 training.steps=20
    python experiments/finetune-pico/run.py --table               # the table of what is there

Regimes: no training; trained on all visual tokens; with Simignore or random tokens at a quarter; with Simignore, the
share falling from all to a quarter over the first half. Each trained model answers the held-out test at 100, 50, 25 and
12 % of the tokens, chosen by Simignore. Every training is that of ``train.py``, so the same command continues after an
interruption, and finished ones are not repeated.

Accuracy is the mean over seeds. Intervals are a crossed bootstrap: seeds and test scenes are both drawn anew, so they
say how far another test and other seeds would move it; three seeds tell little about seeds, so the range over them is
given too. Differences are paired: the same samples, and between two trainings the same seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lit_simignore import cli
from lit_simignore.metrics.records import read_run

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
CONTRASTS = (("simignore", "dense"), ("simignore", "random"), ("annealed", "simignore"))
"""Pairs of regimes: how much better the first is than the second."""
DRAWS = 10_000


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


Scores = Mapping[str, tuple[str, float]]
"""Group and score by sample."""


def answers(runs: Path, regime: str, seeds: Sequence[int], method: str) -> dict[int, Scores]:
    """Scores of the seeds that are there and whole; the untrained model is the same for all of them."""
    found = {}
    for seed in seeds:
        folder = folder_of(runs, regime, seed)
        if (folder / "summary.json").is_file():
            records = read_run(folder).of(method).items()
            found[seed] = {name: (record.group_id or name, float(record.score or 0)) for name, record in records}
    return found


def matrix(found: Mapping[int, Scores], minus: Mapping[int, Scores] | None = None) -> tuple[np.ndarray, list[str]]:
    """Scores, or paired differences of the same seeds, of shape (seeds, samples), and every sample's group."""
    seeds = [seed for seed in found if minus is None or seed in minus]
    sides = [found[seed] for seed in seeds] + [minus[seed] for seed in seeds if minus is not None]
    names = sorted(set.intersection(*(set(side) for side in sides)))
    values = np.array([[found[seed][name][1] for name in names] for seed in seeds])
    if minus is not None:
        values = values - np.array([[minus[seed][name][1] for name in names] for seed in seeds])
    return values, [sides[0][name][0] for name in names]


def crossed_bootstrap(values: np.ndarray, groups: Sequence[str]) -> tuple[float, float, float]:
    """Mean with a 95 % percentile interval over seeds and whole groups, both drawn with replacement.

    Args:
        values: (seeds, samples).
        groups: one per sample.
    """
    rng = np.random.default_rng(0)
    _, place = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(place).astype(float)
    sums = np.stack([np.bincount(place, weights=row) for row in values])  # (seeds, groups)
    num_seeds, num_groups = sums.shape
    of_groups = rng.multinomial(num_groups, [1 / num_groups] * num_groups, size=DRAWS)
    of_seeds = rng.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=DRAWS) / num_seeds
    means = ((of_seeds @ sums) * of_groups).sum(axis=1) / (of_groups @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def accuracy(values: np.ndarray, groups: Sequence[str]) -> str:
    """``mean [interval] (lowest-highest seed)`` in per cent."""
    mean, low, high = (100 * value for value in crossed_bootstrap(values, groups))
    seeds = 100 * values.mean(axis=1)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]" + (
        f" ({seeds.min():.1f}-{seeds.max():.1f})" if len(seeds) > 1 else ""
    )


def difference(values: np.ndarray, groups: Sequence[str]) -> str:
    """``mean [interval]`` in points."""
    mean, low, high = (100 * value for value in crossed_bootstrap(values, groups))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def lines(runs: Path, seeds: Sequence[int], regime: str, against: str | None) -> str:
    """One line of a table: accuracies of a regime, or its differences to another one."""
    found = [answers(runs, regime, [0] if regime == UNTRAINED else seeds, method) for method in METHODS]
    other = [None if against is None else answers(runs, against, seeds, method) for method in METHODS]
    name = regime if against is None else f"{regime} - {against}"
    if not all(found) or (against is not None and not all(other)):
        return f"| {name} | 0 | {' | '.join(['not run'] * len(SHARES))} |"
    tables = [matrix(one, two) for one, two in zip(found, other, strict=True)]
    shown = accuracy if against is None else difference
    return f"| {name} | {len(tables[0][0])} | {' | '.join(shown(*each) for each in tables)} |"


def table(runs: Path, seeds: Sequence[int]) -> str:
    """Both tables in Markdown; what was not run says so."""
    head = [f"| | seeds | {' | '.join(SHARES)} |", f"|---|---|{'---|' * len(SHARES)}"]
    accuracies = [lines(runs, seeds, regime, None) for regime in (UNTRAINED, *REGIMES)]
    pairs = [*((regime, UNTRAINED) for regime in REGIMES), *CONTRASTS]
    differences = [lines(runs, seeds, *pair) for pair in pairs]
    return "\n".join(
        ["Accuracy, % [95 % interval] (range over seeds):", "", *head, *accuracies, "",
         "Paired differences, points [95 % interval]:", "", *head, *differences]
    )  # fmt: skip


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
