"""What every command does around its work: flags, one line per failure, exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from lit_simignore.config.compose import CODE_KEY, split
from lit_simignore.config.typed import ConfigError, refuse_in_one_line
from lit_simignore.engine.orphans import end_with_parent
from lit_simignore.plugins import add_plugins
from lit_simignore.types import UserError

FAILED, BAD_CONFIGURATION, INTERRUPTED, TERMINATED = 1, 2, 130, 143

FLAGS = """\
  --help          this text
  --cfg           print the resolved configuration and stop
  --traceback     show where an error came from
  plugins=FOLDER  use the files below FOLDER/pruning, interventions, benchmarks, families as if they were part of the
                  package (docs/add-a-method.md); may be repeated; on the command line only, because it runs code"""


def run_command(argv: Sequence[str], run: Callable[[Sequence[str], bool], None], render: Callable[[], str]) -> int:
    """Run one command to its exit code.

    Args:
        argv: flags and ``key=value`` assignments.
        run: does the work; gets the assignments, and whether only the configuration is wanted.
        render: gives the text of ``--help``.

    Returns:
        0, 1 failure, 2 bad configuration, 130 interrupted, 143 terminated. Failures are one line on stderr.
    """
    end_with_parent()
    flags = {"--help", "-h", "--cfg", "--traceback"} & set(argv)
    assignments = [argument for argument in argv if argument not in flags]
    try:
        assignments = _take_plugins(assignments)
        if flags & {"--help", "-h"}:
            print(render(), end="")
        else:
            run(assignments, "--cfg" in flags)
        return 0
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if "--traceback" in flags:
            traceback.print_exc()
        code, line = _verdict(error)
        if line:
            print(f"{_rank_prefix()}{line}", file=sys.stderr)
        return code


def _take_plugins(assignments: Sequence[str]) -> list[str]:
    """Add the folders of every ``plugins=``; returns the other assignments.

    Here and not among the keys of a configuration: a configuration is data, and this names code.
    """
    others = []
    for assignment in assignments:
        if assignment.lstrip("-").startswith(f"{CODE_KEY}="):
            refuse_in_one_line(CODE_KEY, partial(add_plugins, split(assignment)[1]))
        else:
            others.append(assignment)
    return others


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit code, and the one line that goes to stderr."""
    again = "the same command continues"
    # Lightning turns an interrupt into SystemExit(1) and keeps it as the context.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted; {again}"
    if isinstance(error, SystemExit):
        # Lightning's exception for SIGTERM carries no code: by itself it would pass for success.
        code = TERMINATED if error.code is None else error.code if isinstance(error.code, int) else FAILED
        return code, f"terminated; {again}" if code == TERMINATED else ""
    if isinstance(error, ConfigError):
        return BAD_CONFIGURATION, f"error: {one_line(error)}"
    if isinstance(error, UserError):
        return FAILED, f"error: {one_line(error)}"
    from lit_simignore.engine.lost import lost_process  # torch, for which help and a typing error need not wait

    lost = lost_process(error)
    if lost is not None:
        return FAILED, f"error: {lost}"
    return FAILED, f"error: {type(error).__name__}: {one_line(error)} (--traceback shows where)"


def one_line(error: BaseException) -> str:
    """The message of ``error`` without line breaks."""
    return " ".join(str(error).split())


def _rank() -> str:
    return os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of several: the one that prints."""
    return _rank() == "0"


def _rank_prefix() -> str:
    return "" if is_main_process() else f"[rank {_rank()}] "
