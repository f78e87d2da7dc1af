"""``python -m tests.engine.run_toy FOLDER DEVICES [DIES_AT RANK SIGNAL [LATE_S]]``: the toy run as a program."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from lit_simignore.engine.evaluate import evaluate
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor, settings

SIZE = 41


def main(
    folder: str, devices: str, dies_at: str = "0", dying_rank: str = "0", number: str = "9", late_s: str = "0"
) -> None:
    """Run, and let one process die by a signal when it parses an output, unless it was restarted.

    After a restart process 0 begins ``late_s`` seconds after the others.
    """
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if restarted and rank == "0":
        time.sleep(float(late_s))
    seen: list[str] = []

    def on_parse(output: str, sample: object) -> None:
        seen.append(output)
        if not restarted and rank == dying_rank and len(seen) == int(dies_at):
            os.kill(os.getpid(), signal.Signals(int(number)))

    chosen = settings(devices=devices if devices == "auto" else int(devices), timeout_hours=0.1)
    benchmark = Toy(size=SIZE, on_parse=on_parse)
    evaluate(*model_and_processor(), benchmark, (BASELINE, STRIDE), Path(folder), chosen)


if __name__ == "__main__":
    main(*sys.argv[1:])
