"""What every test starts from: no rank left over from another test, and Ctrl-C as in a terminal."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

# Some tests fork. A fork of a process that has threads for its matrices waits for them for ever, so there are none; the
# models are too small to gain from any.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def first_process() -> Iterator[None]:
    """Lightning keeps the rank of the last Trainer in a global, and loggers of later tests would stay silent."""
    rank_zero_only.rank = 0
    yield
    rank_zero_only.rank = 0


@pytest.fixture(autouse=True, scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    """``datasets`` keeps copies of the tables it reads: not in the home of whoever runs the tests."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(autouse=True, scope="session")
def terminal() -> None:
    """A shell that starts the suite in the background has Ctrl-C ignored; processes started by tests inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
