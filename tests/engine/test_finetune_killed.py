"""One process of two is killed in the middle of a training: the other ends too, and the training goes on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_simignore.engine.finetune_checkpoints import last_checkpoint
from tests.engine.finetuning import far

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "training.steps=3", "training.batch_size=4", "training.micro_batch_size=1", "checkpoint.every=1", "tuning.rank=4",
    "tuning.dropout=0", "trainer.accelerator=cpu", "trainer.progress=false", "outcome.before=false",
    "outcome.after=false", "data.scenes=64",
)  # fmt: skip
SECOND_STEP = 3
"""Its second micro-batch: two processes take two of them a step."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
APART = 1e-3
"""Of how far the adapters have come, what may lie between trainings that add gradients in another order."""


def train(folder: Path, *more: str, by: tuple[str, ...] = (), patience_s: float = 600) -> tuple[int, str]:
    """The command in a process group of its own, which must be empty after it; returns its status and what it said."""
    where = [f"run.dir={folder.parent}", f"run.name={folder.name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, *by, "-m", "tests.engine.run_finetune", *RUN, *where, *more]
    with (folder.with_suffix(".out")).open("w+") as out:
        started = subprocess.Popen(
            program, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = started.wait(patience_s)
            assert alone(started.pid), "a process is left behind"
        finally:
            if not alone(started.pid, patience_s=0):
                os.killpg(started.pid, signal.SIGKILL)
        out.seek(0)
        said = out.read()
    print(said[-3000:])
    return status, said


def alone(group: int, patience_s: float = 15) -> bool:
    """Whether the group has no process any more, in the end."""
    end = time.monotonic() + patience_s
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Distance over the way that was gone: of the adapters' second matrices, which begin at zero.

    Not the largest difference: AdamW makes a whole step of a gradient that is nothing but rounding.
    """
    assert first.keys() == second.keys()
    moved = [name for name in first if "lora_B" in name]
    one, two = (torch.cat([weights[name].flatten() for name in moved]) for weights in (first, second))
    return float((one - two).norm() / two.norm())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What two processes train that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, "trainer.devices=2")[0] == 0
    return adapter(folder)


def test_one_killed_process_ends_the_other_and_one_or_two_go_on(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    """Started by the command alone, as by a user without torchrun."""
    status, said = train(tmp_path / "two", "trainer.devices=2", f"dies={SECOND_STEP}:{int(signal.SIGKILL)}:1")
    # Whichever is first: the broken connection, or Lightning's look at its children every five seconds.
    assert (status, bool(re.search(r"^error: another process of this run is gone", said, re.M))) == (1, True) or (
        status, "terminated with code -9" in said) == (-9, True)  # fmt: skip
    assert not (tmp_path / "two" / "adapter").exists()
    reached = last_checkpoint(tmp_path / "two")
    assert reached is not None and reached.name == "step-00000001.ckpt"
    shutil.copytree(tmp_path / "two", tmp_path / "one")

    assert train(tmp_path / "two", "trainer.devices=2")[0] == 0
    assert far(adapter(tmp_path / "two"), whole) == 0.0
    assert train(tmp_path / "one", "trainer.devices=1")[0] == 0
    assert 0.0 < apart(adapter(tmp_path / "one"), whole) < APART


def test_torchrun_starts_both_again_when_the_first_is_killed(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    """Sharded (FSDP2); the second attempt goes on from the checkpoint by itself."""
    # One micro-batch a step: every layer of each is gathered, which takes long when two processes share a core.
    keys = ("trainer.devices=auto", "trainer.strategy=fsdp2", "training.micro_batch_size=2")
    status, said = train(tmp_path / "run", *keys, f"dies=1:{int(signal.SIGKILL)}:0", by=TORCHRUN)
    assert status == 0, said
    assert "(SIGKILL)" in said or "exitcode: -9" in said
    assert apart(adapter(tmp_path / "run"), whole) < APART
