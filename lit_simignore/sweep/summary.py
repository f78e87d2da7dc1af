"""All runs of a sweep in one page and two plain files, from the folder alone; also where it is not finished."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_simignore.config.compose import split
from lit_simignore.config.folders import read_yaml
from lit_simignore.engine.atomic import write_json, write_text
from lit_simignore.report.folder import read_view
from lit_simignore.report.summary import RunView
from lit_simignore.report.sweep_page import finding, render_sweep_page, state_line
from lit_simignore.report.sweep_table import plain_rows, render_sweep, to_csv
from lit_simignore.report.sweep_view import SweepJob, SweepView, build_view
from lit_simignore.report.table import WIDTH
from lit_simignore.sweep.ledger import FILE, State, read_ledger
from lit_simignore.sweep.metric import SUMMARIES
from lit_simignore.sweep.runner import LOGS, last_line
from lit_simignore.types import UserError

PAGE, PLAIN, TABLE = "sweep.html", "sweep.json", "sweep.csv"
_NOT_COMPARED = ("run", "logger")


def write_summary(folder: Path) -> Path:
    """Draw the page of a sweep, and write its numbers as JSON and CSV.

    Args:
        folder: of the sweep: run folders with or without a ledger. Without one, as W&B's agents leave it, what differs
            between the runs' configurations are the parameters.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder holds no runs.
    """
    view = read_sweep_folder(folder)
    write_text(folder / TABLE, to_csv(view))
    write_json(folder / PLAIN, _plain(view))
    write_text(folder / PAGE, render_sweep_page(view))
    return folder / PAGE


def render_summary(folder: Path) -> str:
    """The same for the terminal."""
    view = read_sweep_folder(folder)
    found = textwrap.fill(finding(view), WIDTH)
    return f"{view.name}: {state_line(view)}\n\n{render_sweep(view)}\n\n{found}"


def read_sweep_folder(folder: Path) -> SweepView:
    """What is known about a sweep.

    Raises:
        UserError: the folder holds no runs.
    """
    if (folder / FILE).is_file():
        return _from_ledger(folder)
    found = [path.parent for path in sorted(folder.glob("*/config.yaml"))]
    if not found:
        raise UserError(f"expected the folder of a sweep, with {FILE} or run folders, got {folder}")
    settings = {run.name: _flat(read_yaml(run / "config.yaml")) for run in found}
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    varied = [key for key in keys if len({repr(values.get(key)) for values in settings.values()}) > 1]
    jobs = []
    for run in found:
        view = _view(run)
        state = State.STARTED if view is None or not view.complete else State.COMPLETE
        values = {key: settings[run.name].get(key) for key in varied}
        jobs.append(SweepJob(run.name, values, state.value, view=view))
    return build_view(folder.resolve().name, len(jobs), jobs)


def _from_ledger(folder: Path) -> SweepView:
    history = read_ledger(folder)
    jobs = []
    for job in sorted(history.jobs.values(), key=lambda job: job.index):
        view = _view(folder / job.name) if job.state is State.COMPLETE else None
        log = folder / LOGS / f"{job.name}.log"
        note = f"code {job.code}: {last_line(log)}" if job.state is State.FAILED else ""
        jobs.append(SweepJob(job.name, job.values, job.state.value, note, view))
    given = dict(split(str(word)) for word in history.identity.get("command", []))
    return build_view(history.name or folder.resolve().name, history.total, jobs, given)


def _view(run: Path) -> RunView | None:
    for file in SUMMARIES:
        if (run / file).is_file():
            return read_view((run / file).parent)
    return None


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` as ``{a.b: 1}``, without what says where a run is written."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if name in _NOT_COMPARED:
            continue
        found |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def _plain(view: SweepView) -> dict[str, Any]:
    jobs = [{"job": job.name, "state": job.state, "note": job.note, "values": dict(job.values)} for job in view.jobs]
    plain = {"sweep": view.name, "total": view.total, "complete": view.complete, "jobs": jobs, "rows": plain_rows(view)}
    return json.loads(json.dumps(plain, default=str))
