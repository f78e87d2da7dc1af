"""Going on where the last attempt stopped, decided by one process for all of them."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import lightning as L

from lit_simignore.data.collate import one_line
from lit_simignore.data.datamodule import SampleDataModule
from lit_simignore.data.sharding import check_samples
from lit_simignore.engine.evaluator import LitEvaluator
from lit_simignore.engine.fingerprint import Fingerprint
from lit_simignore.engine.orphans import end_with_parent
from lit_simignore.engine.store import PredictionStore, answered, check_same_data, pending_samples
from lit_simignore.metrics.records import Key
from lit_simignore.types import Sample, UserError

_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


class Plan(NamedTuple):
    """What is left to do, the same in every process.

    Args:
        attempt: number of this attempt.
        done: existing records, True good, False an error.
        pending: ids of the samples that lack a good record.
        nonce: a word that stands in the run folder while this attempt begins.
    """

    attempt: int
    done: dict[Key, bool]
    pending: list[str]
    nonce: str


class Resume(L.Callback):
    """Connects an evaluator to a run folder: what is there is not computed again, what is computed is kept.

    Args:
        store: the run folder's records.
        fingerprint: of the run.
        samples: the whole benchmark.
        overwrite: begin anew. A process that a scheduler has started again goes on instead.

    Attributes:
        exception: what ended the test, if it did not end by itself.
    """

    def __init__(
        self, store: PredictionStore, fingerprint: Fingerprint, samples: Sequence[Sample], overwrite: bool = False
    ) -> None:
        check_samples(samples)
        self.store, self.fingerprint, self.samples, self.overwrite = store, fingerprint, samples, overwrite
        self.exception: BaseException | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agree on the plan, open this process's record file, tell module and data what is left.

        Raises:
            UserError: the folder holds another run, or other data, or is another folder in another process; in every
                process, so that none waits for another.
        """
        end_with_parent()  # here too, for a forked process begins with the test
        plan = self._shared_plan(trainer)
        self._check_shared(trainer, plan.nonce)
        if plan.pending:
            self.store.open(plan.attempt, trainer.global_rank, trainer.world_size)
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, SampleDataModule):
            datamodule.pending = set(plan.pending)
        if isinstance(pl_module, LitEvaluator):
            pl_module.done, pl_module.record = plan.done, self.store.append

    def _shared_plan(self, trainer: L.Trainer) -> Plan:
        plan: Plan | UserError | None = None
        failure: Exception | None = None
        if trainer.is_global_zero:
            try:
                plan = self._plan()
            # The other processes wait for a plan: they are told that there is none.
            except Exception as error:
                plan, failure = UserError(one_line(error)), error
        plan = trainer.strategy.broadcast(plan, src=0)
        if failure is not None:
            raise failure
        if isinstance(plan, UserError):
            raise plan
        assert plan is not None
        return plan

    def _plan(self) -> Plan:
        attempt = self.store.prepare(self.fingerprint, self.overwrite and not was_restarted())
        run, methods = self.store.read(), list(self.fingerprint.methods)
        check_same_data(run, self.samples)
        done, nonce = answered(run, methods), uuid.uuid4().hex
        self.store.mark(nonce)
        return Plan(attempt, done, pending_samples(self.samples, methods, done), nonce)

    def _check_shared(self, trainer: L.Trainer, nonce: str) -> None:
        """The first process merges what all of them wrote: a folder that only some of them see would lose answers."""
        mine = self.store.sees(nonce)
        everywhere = trainer.strategy.reduce_boolean_decision(mine, all=True)
        if trainer.is_global_zero:
            self.store.unmark()
        if not everywhere:
            which = "another process" if mine else f"process {trainer.global_rank} on {socket.gethostname()}"
            raise UserError(
                f"{which} does not see the run folder {self.store.run_dir} of process 0; expected one folder that all "
                "machines share: set run.dir to a place on a shared file system"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the record file."""
        self.store.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the record file whatever happens, and remember what did."""
        self.exception = exception
        self.store.close()


def was_restarted() -> bool:
    """Whether torchrun or SLURM has started this process again: its command line is then older than its records."""
    return any(os.environ.get(name, "0").strip() not in ("", "0") for name in _RESTARTS)
