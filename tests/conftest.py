"""What every test starts from: no rank left over from another test, and Ctrl-C as in a terminal."""

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

# Before torch is imported, and for every process that a test starts: two workers with two threads each, on two cores,
# spend most of their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

# Some tests fork. A fork of a process that has threads for its matrices waits for them for ever, so there are none; the
# models are too small to gain from any.
torch.set_num_threads(1)


BROWSER_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
_MEETING = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE"} - set(os.environ)


@pytest.fixture(autouse=True)
def first_process() -> Iterator[None]:
    """Lightning keeps the rank of the last Trainer in a global, and loggers of later tests would stay silent.

    It also leaves the address where processes met in the environment, which later tests hand on to theirs, and the
    group in which they met: processes that are forked later would take it for their own and wait in it for ever.
    """
    _forget_others()
    yield
    _forget_others()


def _forget_others() -> None:
    rank_zero_only.rank = 0
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for name in _MEETING:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True, scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    """``datasets`` keeps copies of the tables it reads: not in the home of whoever runs the tests."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(autouse=True, scope="session")
def terminal() -> None:
    """A shell that starts the suite in the background has Ctrl-C ignored; processes started by tests inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of this machine, driven by Playwright; tests skip and say so where either is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine: the page is not driven")
    with sync_api.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=program, args=BROWSER_FLAGS)
        yield launched
        launched.close()
