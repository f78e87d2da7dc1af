"""Runs that nobody can start here: 1 to 512 ranks, stragglers, failures, requeues; static shards against work units.

    python experiments/launching/simulate.py --write

A benchmark is a list of batches. *Static* is what the package does: batch ``i`` belongs to rank ``i mod ranks``; an
attempt that a failure ends is continued by the next one, which shares out anew what is left. *Units of k* is the
alternative: a rank that is free takes the next ``k`` batches from a common list. Either way a batch that is finished is
on disk, one that is cut is lost, and a failure of one node ends the attempt on all of them. Seconds per batch are drawn
from a measured sample (``latencies.json``, scaled to ``--batch-s``); everything else is assumed, and printed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
STATIC = 0
"""In place of a unit's size."""
UNITS = (STATIC, 1, 8, 32)


@dataclass(frozen=True)
class Cluster:
    """What is assumed.

    Args:
        ranks: processes, one GPU each.
        ranks_per_node: processes of one machine.
        startup_s: imports, loading, meeting; paid by every attempt.
        requeue_s: from a failure until all processes run again.
        node_mtbf_h: mean time between failures of one node, exponential; infinite for none.
        slow_share: share of ranks that are slow, at least one where it is not zero and there are several.
        slowdown: how many times slower these are.
        take_s: what taking a unit from the common list costs a rank.
    """

    ranks: int
    ranks_per_node: int = 8
    startup_s: float = 90.0
    requeue_s: float = 300.0
    node_mtbf_h: float = math.inf
    slow_share: float = 0.0
    slowdown: float = 1.0
    take_s: float = 0.05

    @property
    def nodes(self) -> int:
        return math.ceil(self.ranks / self.ranks_per_node)


@dataclass(frozen=True)
class Outcome:
    """One simulated run: wall time in hours, GPU-hours that answered nothing, attempts."""

    wall_h: float
    wasted_gpu_h: float
    attempts: int


def simulate(batches: np.ndarray, cluster: Cluster, unit: int, draw: np.random.Generator) -> Outcome:
    """One run to its end.

    Args:
        batches: ``(n,)`` float64, seconds of every batch on a rank that is not slow, in the plan's order.
        cluster: what is assumed.
        unit: batches taken at a time, or :data:`STATIC`.
        draw: failures and slow ranks.
    """
    speed = _speeds(cluster, draw)
    left, held, useful, attempts = batches, 0.0, 0.0, 0
    rate = cluster.nodes / (cluster.node_mtbf_h * 3600)
    while True:
        attempts += 1
        ends, spent = _static(left, speed) if unit == STATIC else _units(left, speed, unit, cluster.take_s)
        failure = draw.exponential(1 / rate) if rate else math.inf
        worked = min(ends.max(initial=0.0), max(failure - cluster.startup_s, 0.0))
        done = ends <= worked
        useful += float(spent[done].sum())
        held += cluster.startup_s + worked if failure > cluster.startup_s else failure
        if done.all():
            wall = held + (attempts - 1) * cluster.requeue_s  # in the queue nothing is held
            return Outcome(wall / 3600, (cluster.ranks * held - useful) / 3600, attempts)
        left = left[~done]


def _speeds(cluster: Cluster, draw: np.random.Generator) -> np.ndarray:
    """``(ranks,)`` factor on every batch's seconds."""
    speed = np.ones(cluster.ranks)
    if cluster.slow_share and cluster.ranks > 1:
        slow = max(1, round(cluster.slow_share * cluster.ranks))
        speed[draw.choice(cluster.ranks, slow, replace=False)] = cluster.slowdown
    return speed


def _static(batches: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When every batch ends, and how long its rank takes for it, both ``(n,)`` seconds."""
    ends, spent = np.empty(len(batches)), np.empty(len(batches))
    for rank, factor in enumerate(speed[: len(batches)]):
        own = batches[rank :: len(speed)] * factor
        spent[rank :: len(speed)], ends[rank :: len(speed)] = own, own.cumsum()
    return ends, spent


def _units(batches: np.ndarray, speed: np.ndarray, unit: int, take_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The same where ranks take units as they become free."""
    ends, spent = np.empty(len(batches)), np.empty(len(batches))
    free = [(0.0, rank) for rank in range(len(speed))]
    for start in range(0, len(batches), unit):
        now, rank = heapq.heappop(free)
        own = batches[start : start + unit] * speed[rank]
        spent[start : start + unit], ends[start : start + unit] = own, now + take_s + own.cumsum()
        heapq.heappush(free, (float(now + take_s + own.sum()), rank))
    return ends, spent


# ---------------------------------------------------------------- what is printed


@dataclass(frozen=True)
class Scene:
    """One set of assumptions with a name."""

    name: str
    title: str
    cluster: Cluster


def scenes() -> tuple[Scene, ...]:
    calm = Cluster(ranks=1)
    return (
        Scene("calm", "all ranks alike, no failures", calm),
        Scene("stragglers", "2 % of the ranks 1.5 times slower", replace(calm, slow_share=0.02, slowdown=1.5)),
        Scene("failures", "one failure per node in 12 hours", replace(calm, node_mtbf_h=12)),
        Scene(
            "both",
            "stragglers, and one failure per node in 12 hours",
            replace(calm, slow_share=0.02, slowdown=1.5, node_mtbf_h=12),
        ),
    )


def table(sample: Sequence[float], size: int, batch_s: float, repeats: int, seed: int) -> dict[str, dict[int, dict]]:
    """Mean outcome by scene, ranks and unit."""
    found: dict[str, dict[int, dict]] = {}
    shape = np.asarray(sample) / np.mean(sample) * batch_s
    for number, scene in enumerate(scenes()):
        found[scene.name] = {}
        for ranks in RANKS:
            draws = [np.random.default_rng([seed, repeat]) for repeat in range(repeats)]
            lists = [draw.choice(shape, size) for draw in draws]  # the same batches for every unit
            found[scene.name][ranks] = {
                unit: _mean(
                    [
                        # One draw of failures and slow ranks for all units, another for every scene and size.
                        simulate(
                            batches,
                            replace(scene.cluster, ranks=ranks),
                            unit,
                            np.random.default_rng([seed, number, ranks, n]),
                        )
                        for n, batches in enumerate(lists)
                    ]
                )
                for unit in UNITS
            }
    return found


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        float(np.mean([entry.wall_h for entry in outcomes])),
        float(np.mean([entry.wasted_gpu_h for entry in outcomes])),
        round(float(np.mean([entry.attempts for entry in outcomes]))),
    )


def label(unit: int) -> str:
    return "static" if unit == STATIC else f"units of {unit}"


def markdown(found: dict[str, dict[int, dict]], about: str) -> str:
    lines = [about, ""]
    for scene in scenes():
        lines += [f"**{scene.title}**: wall hours (GPU-hours that answered nothing)", ""]
        lines += ["| ranks | " + " | ".join(map(label, UNITS)) + " |", "|---:" * (len(UNITS) + 1) + "|"]
        for ranks, by_unit in found[scene.name].items():
            cells = [f"{by_unit[unit].wall_h:.2f} ({by_unit[unit].wasted_gpu_h:.1f})" for unit in UNITS]
            lines.append(f"| {ranks} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def measured(run_dir: Path) -> list[float]:
    """Milliseconds of every batch of a run folder, from what its records say."""
    found = {}
    for file in sorted(run_dir.glob("predictions-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["error"] is None and row["latency_ms"]:
                found[file.name, row["method"], row["latency_ms"]] = row["latency_ms"] * row["batch_size"]
    if not found:
        raise SystemExit(f"{run_dir} holds no answered records")
    return [round(value, 1) for value in found.values()]


# ---------------------------------------------------------------- the figure

_COLOURS = {STATIC: "#1b6ca8", 1: "#c8553d", 8: "#588157", 32: "#8d6a9f"}
_WIDTH, _HEIGHT, _LEFT, _TOP, _PLOT_W, _PLOT_H = 760, 560, 60, 44, 290, 190


def figure(found: dict[str, dict[int, dict]]) -> str:
    """Wall time over that of work shared out perfectly, by ranks, one panel per scene."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="wall time against ranks">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    alone = found["calm"][1][STATIC].wall_h - scenes()[0].cluster.startup_s / 3600
    for place, scene in enumerate(scenes()):
        left, top = _LEFT + (place % 2) * (_PLOT_W + 70), _TOP + (place // 2) * (_PLOT_H + 64)
        parts += _panel(scene, found[scene.name], alone, left, top)
    for place, unit in enumerate(UNITS):
        x = _LEFT + 130 * place
        parts.append(f'<line x1="{x}" y1="12" x2="{x + 22}" y2="12" stroke="{_COLOURS[unit]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 28}" y="16">{label(unit)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(scene: Scene, rows: dict[int, dict], alone: float, left: float, top: float) -> list[str]:
    ratio = {unit: [rows[ranks][unit].wall_h * ranks / alone for ranks in RANKS] for unit in UNITS}
    highest = max(2.0, *(max(values) for values in ratio.values()))

    def y(value: float) -> float:
        return top + _PLOT_H * (1 - math.log(max(value, 1.0)) / math.log(highest))

    def x(ranks: int) -> float:
        return left + _PLOT_W * math.log2(ranks) / math.log2(RANKS[-1])

    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{scene.title}</text>']
    for tick in (1.0, 1.5, 2.0, 4.0, 8.0, 16.0):
        if tick <= highest:
            parts.append(
                f'<line x1="{left}" x2="{left + _PLOT_W}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            )
            parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}×</text>')
    for ranks in RANKS[::3]:
        parts.append(f'<text x="{x(ranks):.1f}" y="{top + _PLOT_H + 14}" text-anchor="middle">{ranks}</text>')
    parts.append(f'<text x="{left + _PLOT_W / 2}" y="{top + _PLOT_H + 28}" text-anchor="middle">ranks</text>')
    for unit, values in ratio.items():
        points = " ".join(f"{x(ranks):.1f},{y(value):.1f}" for ranks, value in zip(RANKS, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[unit]}" stroke-width="1.8"/>')
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=3_000, help="of all methods together (default %(default)s)")
    parser.add_argument("--batch-s", type=float, default=12.0, help="mean seconds of a batch (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=12, help="runs per cell (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latencies", type=Path, default=HERE / "latencies.json", help="JSON with a list batch_ms")
    parser.add_argument("--sample", type=Path, metavar="RUN", help="only read a run's batches into --latencies")
    parser.add_argument(
        "--write", nargs="?", const=HERE, type=Path, help="also into simulate.md and simulate.svg there"
    )
    wish = parser.parse_args(argv)
    if wish.sample is not None:
        wish.latencies.write_text(json.dumps({"batch_ms": measured(wish.sample)}) + "\n", encoding="utf-8")
        return
    sample = json.loads(wish.latencies.read_text(encoding="utf-8"))["batch_ms"]
    found = table(sample, wish.batches, wish.batch_s, wish.repeats, wish.seed)
    calm = scenes()[0].cluster
    about = (
        f"{wish.batches} batches of {wish.batch_s:g} s on average, spread as measured; {calm.ranks_per_node} ranks per "
        f"node; start-up {calm.startup_s:g} s, requeue {calm.requeue_s:g} s; mean of {wish.repeats} runs, seed "
        f"{wish.seed}."
    )
    text = markdown(found, about)
    print(text)
    if wish.write is not None:
        (wish.write / "simulate.md").write_text(text, encoding="utf-8")
        (wish.write / "simulate.svg").write_text(figure(found), encoding="utf-8")


if __name__ == "__main__":
    main()
