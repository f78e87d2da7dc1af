"""Kill random processes of an evaluation with SIGKILL, again and again, and compare the end with a run left alone.

    python experiments/reliability/kill_storm.py --kills 30

Runs the command itself, by turns with Lightning's launcher and under torchrun, with 1, 2 or 3 processes, on the bundled
model. A moment is either a random time after the start or just after a random number of new records. Whatever is left
of an attempt must end by itself; then the same command goes on with another number of processes. A round ends when an
attempt completes; rounds follow until there were enough kills. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lit_simignore.metrics.records import Run, read_run

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("baseline", "simignore")
WORLDS = (1, 2, 3)
PATIENCE_S = 300.0
AGENT = "agent"
MARK = "KILL_STORM"
"""Environment variable that every process of an attempt inherits."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="so many SIGKILLs that hit (default %(default)s)")
    parser.add_argument("--samples", type=int, default=240, help="questions (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws moments, victims and world sizes (default 0)")
    wish = parser.parse_args()
    draw = random.Random(wish.seed)
    with tempfile.TemporaryDirectory(prefix="kill-storm-") as folder:
        runs = Path(folder)
        print("the run left alone ...", flush=True)
        if finish(start(runs, "alone", 1, "lightning", wish.samples), runs) != 0:
            raise SystemExit("the run left alone failed")
        kills, rounds, bad = 0, 0, 0
        while kills < wish.kills:
            rounds += 1
            kills += storm(runs, f"round-{rounds}", wish.kills - kills, draw, wish.samples)
            bad += compared(runs / "alone", runs / f"round-{rounds}", wish.samples)
    print(f"\n{kills} kills in {rounds} rounds: {'NOT the same' if bad else 'everything the same'}")
    return int(bad > 0)


def storm(runs: Path, name: str, wanted: int, draw: random.Random, samples: int) -> int:
    """One run folder from nothing to the end; returns how many processes were killed on the way."""
    print(f"\n{name}\nattempt  launcher   processes  victim   killed after  all gone after  new records", flush=True)
    kills = attempt = 0
    while True:
        attempt += 1
        world, launcher = draw.choice(WORLDS), draw.choice(("lightning", "torchrun"))
        process = start(runs, name, world, launcher, samples)
        before, began = written(runs / name), time.monotonic()
        victim, killed = kill_one(process, runs / name, before, world, draw) if kills < wanted else ("", began)
        status = finish(process, runs)
        row = f"{attempt:7d}  {launcher:9s}  {world:9d}"
        if not victim:
            print(f"{row}  none: exit status {status}", flush=True)
            if status == 0:
                return kills
            raise SystemExit(f"an attempt that nobody was killed in ended with {status}")
        kills += 1
        new = written(runs / name) - before
        gone = f"{killed - began:10.1f} s  {time.monotonic() - killed:12.1f} s"
        print(f"{row}  {victim:7s}  {gone}  {new:11d}", flush=True)
        if status == 0:
            raise SystemExit("an attempt whose process was killed claimed success")


# ---------------------------------------------------------------- one attempt


def start(runs: Path, name: str, world: int, launcher: str, samples: int) -> subprocess.Popen[bytes]:
    """The command as a user types it; its processes carry a mark that :func:`members` finds."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [
        sys.executable, *(torchrun if launcher == "torchrun" else []), "eval.py", f"run.dir={runs}", f"run.name={name}",
        f"methods=[{','.join(METHODS)}]", f"benchmark.limit={samples}", "efficiency.samples=0", "report.samples=0",
        "trainer.accelerator=cpu", "trainer.progress=false", "trainer.batch_size=8",
        f"trainer.devices={'auto' if launcher == 'torchrun' else world}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), MARK: str(runs)}
    with (runs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes], runs: Path) -> int:
    """Exit status, once every process of the attempt has ended by itself."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None or members(runs):
        if time.monotonic() > deadline:
            for pid in members(runs):
                os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"processes were still there after {PATIENCE_S:.0f} s")
        time.sleep(0.1)
    return process.returncode


def kill_one(
    process: subprocess.Popen[bytes], run_dir: Path, before: int, world: int, draw: random.Random
) -> tuple[str, float]:
    """Wait for the moment and kill one process; returns which and when, or no name if the attempt was over before.

    Of six kills under torchrun one hits the agent.
    """
    moment = time.monotonic() + draw.uniform(0.5, 15) if draw.random() < 1 / 3 else None
    records, pause = draw.randrange(0, 24 * world), draw.uniform(0, 0.3)
    while process.poll() is None:
        due = time.monotonic() >= moment if moment is not None else written(run_dir) - before > records
        found = members(run_dir.parent)
        if due and found:
            time.sleep(pause if moment is None else 0)
            ranks = [pid for pid in sorted(found) if found[pid] != AGENT]
            pid = draw.choice(ranks if ranks and draw.random() < 5 / 6 else sorted(found))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return found[pid], time.monotonic()
        time.sleep(0.05)
    return "", 0.0


def members(runs: Path) -> dict[int, str]:
    """Living processes of the attempt by id, wherever they hang: ``rank N``, and torchrun's agent."""
    found, mark = {}, f"{MARK}={runs}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if mark not in variables:
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            values = dict(entry.partition(b"=")[::2] for entry in variables)
            rank = values.get(b"RANK", values.get(b"LOCAL_RANK", b"0")).decode()
            found[int(folder.name)] = AGENT if b"torch.distributed.run" in words else f"rank {rank}"
    return found


def written(run_dir: Path) -> int:
    """Whole lines of records on disk."""
    return sum(path.read_bytes().count(b"\n") for path in run_dir.glob("predictions-*.jsonl"))


# ---------------------------------------------------------------- the end


def compared(alone: Path, stormed: Path, samples: int) -> int:
    """Print what the two folders hold; returns the number of differences."""
    one, other = read_run(alone), read_run(stormed)
    differing = [key for key in one.predictions if content(one, key) != content(other, key)]
    numbers = {
        "records": len(other.predictions),
        "missing": len(METHODS) * samples - len(other.predictions),
        "unknown": len(other.predictions.keys() - one.predictions.keys()),
        "double": doubles(stormed),
        "differing": len(differing),
        "torn lines (skipped)": other.torn,
        "summary differs": int(metrics(alone) != metrics(stormed)),
    }
    print("  ".join(f"{name}: {count}" for name, count in numbers.items()), flush=True)
    return sum(numbers[name] for name in ("missing", "unknown", "double", "differing", "summary differs"))


def content(run: Run, key: tuple[str, str]) -> Any:
    """What an answer says, without when, where and in which attempt."""
    record = run.predictions.get(key)
    if record is None:
        return None
    return record.output, record.parsed, record.score, record.num_kept, record.error, record.extra


def doubles(run_dir: Path) -> int:
    """Records that were written more than once, by whichever attempt."""
    seen: Counter[tuple[str, str]] = Counter()
    for path in run_dir.glob("predictions-*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            row = json.loads(line)
            seen[row["sample_id"], row["method"]] += 1
    return sum(count - 1 for count in seen.values())


def metrics(run_dir: Path) -> Any:
    """The table of a run without measured time."""
    rows = json.loads((run_dir / "summary.json").read_text())["methods"]
    return [{**row, "efficiency": None} for row in rows]


if __name__ == "__main__":
    raise SystemExit(main())
