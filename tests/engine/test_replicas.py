"""Processes with several GPUs each: whose GPUs are whose, what is refused, and that a dispatched model is evaluated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_simignore.engine import launch
from lit_simignore.engine.evaluate import evaluate
from lit_simignore.engine.replicas import (
    check_placed,
    check_replicas,
    count_replicas,
    first_devices,
    replica_devices,
    replica_options,
)
from lit_simignore.types import UserError
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor, settings, without_time


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 * (device + 1), 10**9))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_gpu_belongs_to_one_process_at_most(size: int) -> None:
    count = count_replicas("auto", size, 8)
    owned = [replica_devices(place, size) for place in range(count)]
    assert sorted(sum(owned, [])) == list(range(count * size)) and (count + 1) * size > 8
    assert first_devices(count, size) == [devices[0] for devices in owned]


@pytest.mark.parametrize(("devices", "size", "message"), [
    (3, 3, "3 processes with trainer.devices_per_replica=3 need 9 GPUs; this machine has 8"),
    ("auto", 9, "1 processes with trainer.devices_per_replica=9 need 9 GPUs"),
    ("0,1", 2, "expected a number of processes as trainer.devices, got '0,1'"),
])  # fmt: skip
def test_too_few_gpus_are_refused(devices: Any, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        count_replicas(devices, size, 8)


@pytest.mark.parametrize(("changes", "wish", "message"), [
    ({}, {"device_map": "auto"}, "expected model.device_map=null, got auto"),
    ({}, {"quantized": True}, "expected model.quantization=none"),
    ({"strategy": "fsdp2"}, {}, "expected trainer.strategy=auto, got fsdp2"),
    ({"accelerator": "cpu"}, {}, "needs CUDA GPUs"),
    ({"devices_per_replica": 0}, {}, "must be at least 1; got 0"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(eight_gpus: None, changes: Any, wish: Any, message: str) -> None:
    check_replicas(settings(accelerator="auto", devices_per_replica=2))
    with pytest.raises(UserError, match=message):
        check_replicas(settings(**{"accelerator": "auto", "devices_per_replica": 2, **changes}), **wish)


def test_a_machine_without_gpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs CUDA GPUs; this machine shows none to PyTorch"):
        evaluate(*model_and_processor(), Toy(), (BASELINE,), tmp_path, settings(devices_per_replica=2))


@pytest.mark.parametrize(("variable", "place"), [("LOCAL_RANK", 1), ("SLURM_LOCALID", 3), (None, 0)])
def test_accelerate_spreads_over_the_gpus_of_this_process_and_no_others(
    eight_gpus: None, monkeypatch: pytest.MonkeyPatch, variable: str | None, place: int
) -> None:
    accelerate = pytest.importorskip("transformers.integrations.accelerate")
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(place))
    options = replica_options(settings(devices_per_replica=2))
    own = [2 * place, 2 * place + 1]
    assert options == {"device_map": "auto", "max_memory": {gpu: 850 * (gpu + 1) for gpu in own}}
    model = model_and_processor()[0].to("meta")
    room = dict.fromkeys(own, 10**9)
    found = accelerate._get_device_map(model, options["device_map"], room, None)
    assert set(found.values()) == set(own)
    layers = [found[name] for name in sorted(found) if "language_model.layers" in name]
    assert layers == sorted(layers) and len(set(layers)) == 2, "the decoder is cut once"


def test_one_device_per_process_changes_nothing() -> None:
    assert replica_options(settings()) == {}


def test_the_trainer_gets_the_first_gpu_of_every_process(
    eight_gpus: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def trainer(**options: Any) -> Any:
        seen.update(options)
        raise InterruptedError

    monkeypatch.setattr(launch.L, "Trainer", trainer)
    for name, value in {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InterruptedError):
        launch.build_trainer(settings(devices="auto", devices_per_replica=4, accelerator="gpu"), tmp_path, [])
    assert seen["devices"] == [0, 4] and seen["num_nodes"] == 3


@pytest.mark.parametrize(("placed", "message"), [
    ({"model": 0, "lm_head": "disk"}, r"does not fit on 2 GPUs \(part of it went to disk\)"),
    ({}, "expects a model that is spread already"),
])  # fmt: skip
def test_a_model_that_is_not_on_its_gpus_is_refused(placed: Any, message: str) -> None:
    model = model_and_processor()[0]
    if placed:
        model.hf_device_map = placed
    with pytest.raises(UserError, match=message):
        check_placed(model, settings(devices_per_replica=2))
    check_placed(model, settings())


def test_a_dispatched_model_gives_the_same_run(tmp_path: Path) -> None:
    dispatch_model = pytest.importorskip("accelerate.big_modeling").dispatch_model
    expected = evaluate(*model_and_processor(), Toy(), (BASELINE, STRIDE), tmp_path / "plain", settings())
    model, processor = model_and_processor()
    decoder = "model.language_model"
    layers = {f"{decoder}.layers.{layer}": "disk" if layer >= 2 else "cpu" for layer in range(4)}
    front = ("model.vision_tower", "model.multi_modal_projector", f"{decoder}.embed_tokens", f"{decoder}.rotary_emb")
    model = dispatch_model(
        model,
        {**dict.fromkeys((*front, f"{decoder}.norm", "lm_head"), "cpu"), **layers},
        main_device="cpu",
        offload_dir=os.fspath(tmp_path / "offload"),
        skip_keys=model._skip_keys_device_placement,
    )
    found = evaluate(model, processor, Toy(), (BASELINE, STRIDE), tmp_path / "dispatched", settings())
    assert without_time(found) == without_time(expected)
    assert any(value.device.type == "meta" for value in model.parameters()), "nothing was ever off the device"
