"""A running evaluation in W&B or TensorBoard: told by the first process, from all processes' files, beside the work.

Two threads that the loop never waits for. One reads what every process has written since it last looked and makes a
point of it; the other owns the logger and hands the points on. Between them is a queue that is full at
:data:`QUEUE` points and then drops: a logger that hangs, fails or cannot be reached costs its picture, never a sample.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger

from lit_simignore.data.collate import one_line
from lit_simignore.data.datamodule import SampleDataModule
from lit_simignore.engine.evaluator import LitEvaluator
from lit_simignore.engine.live_progress import Progress
from lit_simignore.tracking import live_key, log_live, start_live
from lit_simignore.types import UserError

QUEUE = 8
EVERY_S = 5.0
PATIENCE_S = 120.0

Job = Callable[[Logger], None]


class Stream(L.Callback):
    """Streams one evaluation and, at its end, whatever else is to be logged, into one run of the logger.

    Args:
        build: makes the logger; it is called in a thread, for it may take long to find out that nobody answers.
            ``None`` logs nothing.
        run_dir: the run folder.
        every_s: seconds between two points.

    Attributes:
        dropped: points that found the queue full.
        problem: why nothing is logged any more, empty while something is.
    """

    def __init__(self, build: Callable[[], Logger | None], run_dir: Path, every_s: float = EVERY_S) -> None:
        self._build, self._run_dir, self._every_s, self._pid = build, run_dir, every_s, os.getpid()
        self._progress: Progress | None = None
        self._jobs: queue.Queue[Job | None] = queue.Queue(QUEUE)
        self._sender: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()
        self._mistake: UserError | None = None
        self.dropped = 0
        self.problem = ""

    # -- while it runs

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, in the first process; a forked one cannot share its run with the one that logs the end."""
        if trainer.is_global_zero and os.getpid() == self._pid:
            data = getattr(trainer, "datamodule", None)
            methods = [method.name for method in pl_module.methods] if isinstance(pl_module, LitEvaluator) else []
            self.start(methods, len(data.samples) if isinstance(data, SampleDataModule) else 0)

    def start(self, methods: Sequence[str], num_samples: int = 0) -> None:
        """Begin to tell.

        Args:
            methods: names of the methods.
            num_samples: samples of the benchmark; 0 if it is not known.
        """
        self._progress = Progress(self._run_dir, methods, num_samples)
        self._start_sender()
        self._offer(start_live)
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="stream-watcher")
        self._watcher.start()

    def __getstate__(self) -> dict[str, object]:
        """What a spawned process needs of it: to know that it is not the one that tells."""
        return {"_pid": self._pid, "_watcher": None}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tell the last state; the logger stays open for :meth:`close`."""
        self.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The same when the evaluation did not end by itself."""
        self.stop()

    def stop(self) -> None:
        """Tell the last state and look no more."""
        if self._watcher is not None and not self._over.is_set():
            self._over.set()
            self._watcher.join(self._every_s)

    def _watch(self) -> None:
        try:
            while not self._over.wait(self._every_s):
                self._tell()
            self._tell()
        # A view of the run; the run itself reads its files more strictly.
        except Exception as error:
            self._give_up(error)

    def _tell(self) -> None:
        point = {} if self._progress is None else self._progress.point()
        if point:
            point[live_key("dropped")] = float(self.dropped)
            self._offer(lambda logger: log_live(logger, point))

    def _offer(self, job: Job) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.dropped += 1

    # -- the thread that owns the logger

    def _start_sender(self) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, daemon=True, name="stream-sender")
            self._sender.start()

    def _send(self) -> None:
        logger: Logger | None = None
        try:
            logger = self._build()
        except UserError as error:
            self._mistake = error
        # Another's service and another's code: whatever they do must not reach the evaluation.
        except Exception as error:
            self._give_up(error)
        while (job := self._jobs.get()) is not None:
            if logger is None or self.problem:
                continue
            try:
                job(logger)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = one_line(error)
        print(f"nothing more is logged: {self.problem}; the run folder is complete without it", file=sys.stderr)

    # -- at the end

    def close(self, last: Job, patience_s: float = PATIENCE_S) -> bool:
        """Do one more thing with the logger, and wait for it, but not for ever.

        Args:
            last: logs the results and closes the logger.
            patience_s: seconds to wait.

        Returns:
            Whether it was done.

        Raises:
            UserError: no such logger could be made.
        """
        self.stop()
        self._start_sender()
        sender = self._sender
        assert sender is not None
        try:
            self._jobs.put(last, timeout=patience_s)
            self._jobs.put(None, timeout=patience_s)
        except queue.Full:
            return False
        sender.join(patience_s)
        if self._mistake is not None:
            raise self._mistake
        return not sender.is_alive() and not self.problem
