"""What a run was computed with and on, for whoever reads its numbers later."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = ("torch", "transformers", "lightning", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number; CUDA's too where torch was built with it."""
    found = {"python": platform.python_version(), "lit_simignore": _own_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def _own_version() -> str:
    """From the package itself, which may run from a checkout without being installed."""
    return str(getattr(sys.modules.get(__name__.split(".")[0]), "__version__", "unknown"))


def hardware(device: torch.device, num_devices: int = 1) -> dict[str, str | int | float]:
    """The accelerator (or the processor, where there is none) and the machine around it."""
    found: dict[str, str | int | float] = {
        "device": device_name(device),
        "num_devices": num_devices,
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found["device_memory_gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    return found


def device_name(device: torch.device) -> str:
    """Name of a device as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name() if device.type == "cpu" else device.type


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine())
