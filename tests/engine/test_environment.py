"""What a run says about its surroundings."""

from __future__ import annotations

import json

import torch

import lit_simignore
from lit_simignore.engine.environment import device_name, hardware, versions


def test_versions_are_those_that_are_imported() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert found["lit_simignore"] == lit_simignore.__version__
    assert json.loads(json.dumps(found)) == found


def test_hardware_names_the_processor_where_there_is_no_accelerator() -> None:
    found = hardware(torch.device("cpu"), 3)
    assert found["device"] == found["cpu"] == device_name(torch.device("cpu"))
    assert found["device"]
    assert found["num_devices"] == 3
    assert json.loads(json.dumps(found)) == found
