"""A made-up analysis in the folder of a made-up run: for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HEADS = 5, 4


def add_flow(run_dir: Path, *, num_samples: int = 3, grid: tuple[int, int] = (12, 12), text: str = "") -> Path:
    """Write ``flow/`` for the first samples that the run has pictures of; ``text`` is put wherever text goes."""
    folder = run_dir / "flow"
    folder.mkdir()
    random = np.random.default_rng(0)
    shown = list(json.loads((run_dir / "media" / "index.json").read_text(encoding="utf-8")))[:num_samples]
    shares = random.dirichlet([2, 5, 4, 0.5], size=(40, LAYERS))
    np.savez(
        folder / "averages.npz",
        layers=np.arange(LAYERS),
        shares=shares,
        shares_interval=_interval(shares),
        even=np.full((40, LAYERS, 4), [0.02, 0.9, 0.07, 0.01]),
        image_by_head=random.random((40, LAYERS, HEADS)),
        sinks=random.random((40, LAYERS, HEADS)),
        on_needed=(needed := random.random((40, 3, LAYERS)) * 0.4),
        on_needed_interval=_interval(needed),
        needed_area=np.full(40, 0.05),
        samples=np.array([f"s{number}" for number in range(40)]),
    )
    np.savez(folder / "truncation.npz", layers=np.arange(-1, LAYERS))
    samples = [_sample(folder, number, name, random, grid, text) for number, name in enumerate(shown)]
    parts: dict[str, Any] = {
        "averages": {"question": {"queries": "answer"}, "file": "averages.npz", "num_samples": 40, "left_out": {}},
        "samples": {"question": {"methods": []}, "samples": samples},
        "truncation": {"question": {}, "file": "truncation.npz", "num_samples": 40, "baseline": 0.9, "cliff": _cliff()},
    }
    path = folder / "flow.json"
    path.write_text(json.dumps({"version": 1, "parts": parts}), encoding="utf-8")
    return path


def _interval(values: np.ndarray) -> np.ndarray:
    mean = values.mean(axis=0)
    return np.stack([mean, mean * 0.9, mean * 1.1])


def _sample(
    folder: Path, number: int, name: str, random: np.random.Generator, grid: tuple[int, int], text: str
) -> dict[str, Any]:
    total = grid[0] * grid[1]
    needed = np.zeros(total)
    needed[[5, 6, 17]] = 1
    cam = random.random((LAYERS, total))
    cam[-1] = 0
    np.savez(
        folder / f"sample-{number:02d}.npz",
        layers=np.arange(LAYERS),
        cam=cam,
        attention=random.random((LAYERS, HEADS, total)) / total,
        saliency=random.random((LAYERS, total)),
        shares=random.random((LAYERS, 4)),
        sinks=random.random((LAYERS, HEADS)),
        needed=needed,
        clusters=(np.arange(total) // 30),
    )
    answers = [([], "A", ""), ([0], "B", "needed"), ([1], "A", "neutral"), ([1, 2], "C", "spy")]
    return {
        "sample_id": name,
        "output": f"A{text}",
        "grids": [list(grid)],
        "file": f"sample-{number:02d}.npz",
        "ablation": [{"clusters": c, "output": a + text, "verdict": v, "num_kept": 9} for c, a, v in answers],
    }


def _cliff() -> dict[str, Any]:
    curve = [(0, 0.4, -0.5, -0.6, -0.4), (1, 0.8, -0.1, -0.2, 0.0), (2, 0.9, 0.0, -0.03, 0.03), (4, 0.9, 0, 0, 0)]
    names = ("layer_idx", "value", "difference", "low", "high")
    points = [dict(zip(names, point, strict=True)) for point in curve]
    return {"layer_idx": 2, "low": 1, "high": None, "certain": 4, "tolerance": 0.02, "curve": points}
