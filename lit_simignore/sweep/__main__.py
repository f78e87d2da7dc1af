"""``python -m lit_simignore.sweep``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lit_simignore.command import run_command
from lit_simignore.config.compose import CODE_KEY, slug
from lit_simignore.config.typed import plain
from lit_simignore.sweep.definition import Sweep, read_sweep
from lit_simignore.sweep.options import Options, read_options, refuse_swept
from lit_simignore.sweep.plan import Plan, make_plan
from lit_simignore.types import UserError

_USAGE = """\
Run a W&B sweep file on this machine, without a server, and draw one page over all of its runs.

  python -m lit_simignore.sweep experiments/sweep-budgets/sweep.yaml --workers 2
  python -m lit_simignore.sweep experiments/sweep-budgets/sweep.yaml benchmark.limit=50 logger=none
  python -m lit_simignore.sweep --summary runs/sweep-budgets

Running the same command again continues it: only what is not complete is run.

  key=value         given to every job, stronger than the file's fixed values
  --workers N       jobs at a time; by default one per GPU, or one
  --gpus-per-job N  GPUs that each job sees (default 1)
  --count N         jobs at most (default: the file's run_cap; a grid runs whole)
  --seed N          of random values (default 0)
  --name NAME       of the sweep's folder (default: the file's name)
  --dir FOLDER      where that folder is (default runs)
  --retry           run failed jobs again
  --summary FOLDER  draw the page of a sweep again, finished or not; run nothing
  --cfg             print the jobs and run nothing
  --traceback       show where an error came from
  plugins=FOLDER    code of yours, for every job (CONTRIBUTING.md)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep, or draw its page.

    Args:
        argv: what stands behind the program's name; by default that of this process.

    Returns:
        The exit code: 0 all jobs are complete, 1 some are not, 2 bad configuration, 130 interrupted, 143 terminated.
    """
    argv = sys.argv[1:] if argv is None else argv
    plugins = [word for word in argv if word.lstrip("-").startswith(f"{CODE_KEY}=")]
    return run_command(argv, partial(_run, plugins), lambda: _USAGE)


def _run(plugins: Sequence[str], words: Sequence[str], only_jobs: bool) -> None:
    options = read_options(words)
    if options.summary is not None:
        _summarise(Path(options.summary))
        return
    assert options.file is not None
    sweep = read_sweep(options.file)
    refuse_swept(sweep, options.assignments)
    plan = make_plan(sweep, options.count, options.seed)
    if only_jobs:
        _print_jobs(sweep, options, plan)
    else:
        _run_jobs(sweep, options, plan, plugins)


def _print_jobs(sweep: Sweep, options: Options, plan: Plan) -> None:
    """The jobs as commands; those of a search by results depend on results, and only the first is known."""
    known = plan.total if sweep.method != "bayes" else 1
    for index in range(known):
        print(shlex.join(["python", sweep.program, *_arguments(sweep, options, plan.values(index, []))]))
    if known < plan.total:
        print(f"and {plan.total - known} more, which depend on what the first ones find")


def _run_jobs(sweep: Sweep, options: Options, plan: Plan, plugins: Sequence[str]) -> None:
    from lit_simignore.engine.signals import exit_on_sigterm
    from lit_simignore.sweep.checks import check_jobs
    from lit_simignore.sweep.ledger import Ledger, State
    from lit_simignore.sweep.metric import metric_of
    from lit_simignore.sweep.programs import program_command, shares, visible_devices
    from lit_simignore.sweep.runner import Runner, Setup, job_name
    from lit_simignore.sweep.summary import write_summary

    devices = visible_devices()
    workers = options.workers or max(1, len(devices) // options.gpus_per_job)
    folder = Path(options.dir) / (slug(options.name) if options.name else sweep.name)
    known = range(plan.total if sweep.method != "bayes" else 1)
    firsts = ((job_name(index, values), values) for index in known for values in [plan.values(index, [])])
    check_jobs(sweep.program, ((name, _arguments(sweep, options, values)) for name, values in firsts))
    if sweep.stops_early:
        print("early_terminate is left to W&B's server: here every job runs to its end")
    setup = Setup(
        command=program_command(sweep.program),
        arguments=lambda values: [*plugins, *_arguments(sweep, options, values), *_group(sweep, options, folder.name)],
        devices=shares(devices, workers, options.gpus_per_job),
        retry=options.retry,
        metric=partial(metric_of, sweep.metric.name) if sweep.metric else None,
        say=partial(print, flush=True),
        drawn=partial(write_summary, folder),
    )
    with exit_on_sigterm():
        ledger = Ledger(folder)
        try:
            ledger.begin(folder.name, _identity(sweep, options), plan.total)
            Runner(ledger, plan, setup).run()
        finally:
            ledger.close()
    _summarise(folder)
    jobs = [job for job in ledger.history.jobs.values() if job.index < plan.total]
    left = [job.name for job in jobs if job.state is not State.COMPLETE]
    if len(jobs) - len(left) < plan.total:
        raise UserError(
            f"{plan.total - len(jobs) + len(left)} of {plan.total} jobs are not complete: {', '.join(left[:8])}; the "
            "same command continues, with --retry it also runs failed ones again"
        )


def _arguments(sweep: Sweep, options: Options, values: Mapping[str, Any]) -> list[str]:
    """All of a job's arguments but those about its run folder; of two for one key the program takes the last."""
    return [*sweep.arguments(values), *options.assignments]


def _group(sweep: Sweep, options: Options, name: str) -> list[str]:
    """W&B shows the sweep's runs as one group, unless somebody has said which."""
    words = (*sweep.literals, *options.assignments)
    said = {*sweep.parameters, *(word.lstrip("-").partition("=")[0] for word in words)}
    return [] if "logger.group" in said else [f"logger.group={name}"]


def _identity(sweep: Sweep, options: Options) -> dict[str, Any]:
    """What the values and results of jobs depend on; the number of jobs may grow."""
    return {
        "program": sweep.program,
        "method": sweep.method,
        "parameters": {name: plain(asdict(found)) for name, found in sweep.parameters.items()},
        "command": [*sweep.literals, *options.assignments],
        "seed": None if sweep.method == "grid" else options.seed,
    }


def _summarise(folder: Path) -> None:
    from lit_simignore.sweep.summary import render_summary, write_summary

    page = write_summary(folder)
    print(f"\n{render_summary(folder)}\n\nsummary: {page}")


if __name__ == "__main__":
    sys.exit(main())
