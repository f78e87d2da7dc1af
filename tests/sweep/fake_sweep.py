"""A made-up sweep folder: a ledger and run folders of the report's made-up runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_simignore.sweep.ledger import Ledger
from lit_simignore.sweep.runner import LOGS, job_name
from tests.report.fake_run import EVIL, FakeMethod, build_run

NAMES = ("simignore", "random", "stride")
BUDGETS = (72, 36, 18)


def method(name: str, budget: int, evil: bool = False) -> FakeMethod:
    harm = {"simignore": 1.0, "random": 2.4, "stride": 1.5}[name] * (1 - budget / 144) ** 2
    shown = f"{name}@{budget}" + (EVIL[budget % len(EVIL)] if evil else "")
    return FakeMethod(shown, 0.12 * harm, 0.1, budget, budget, 0.6 + budget / 100)


def build_sweep(
    folder: Path, *, complete: int = 9, failed: Sequence[int] = (), evil: bool = False, samples: int = 200
) -> Path:
    """Nine jobs, of which the first ``complete`` have ended; those in ``failed`` did so badly."""
    points = [(name, budget) for name in NAMES for budget in BUDGETS]
    ledger = Ledger(folder)
    ledger.begin(EVIL[0] if evil else "fake", {"command": ["benchmark.limit=200"]}, len(points))
    for index, (name, budget) in enumerate(points):
        values: Mapping[str, Any] = {"methods": f"[baseline,{name}]", "budget": budget, "lr": 10.0**-index, "fixed": 3}
        if evil:
            values = {**values, "methods": EVIL[index % len(EVIL)]}
        if index >= complete + 1:
            continue
        job = ledger.plan(index, job_name(index, {"i": index}), json.loads(json.dumps(values)))
        if index >= complete:
            continue
        ledger.start(job, 1)
        if index in failed:
            (folder / LOGS).mkdir(exist_ok=True)
            (folder / LOGS / f"{job.name}.log").write_text(f"noise\nerror: {EVIL[1]}\n")
        else:
            methods = [FakeMethod("baseline", 0, 0, 144, 144, 2.05), method(name, budget, evil)]
            build_run(folder / job.name, methods=methods, num_samples=samples, num_shown=0, pictures=False, evil=evil)
        ledger.end(job, int(index in failed), 12.0)
    ledger.close()
    return folder
