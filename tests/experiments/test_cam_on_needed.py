"""The script that measures heat on needed patches counts as a loop over pairs and patches does."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def script(load_script) -> ModuleType:
    return load_script("flow/cam_on_needed")


def test_share_and_auc_equal_loops(script: ModuleType) -> None:
    random = torch.Generator().manual_seed(0)
    heat = torch.randint(0, 5, (30,), generator=random).float()
    needed = [3, 7, 8, 20]
    cover = torch.zeros(30, dtype=torch.float64)
    cover[needed] = 1
    assert script.share(heat, cover) == pytest.approx(float(sum(heat[i] for i in needed) / heat.sum()))
    wins = 0.0
    for inside in needed:
        for outside in set(range(30)) - set(needed):
            wins += 1.0 if heat[inside] > heat[outside] else 0.5 if heat[inside] == heat[outside] else 0.0
    assert script.auc(heat, cover) == pytest.approx(wins / (4 * 26))
    assert script.share(torch.zeros(30), cover) != script.share(torch.zeros(30), cover), "no heat, no share"


@pytest.mark.slow
def test_a_small_measurement_has_a_row_per_layer(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--scenes", "6", "--models", "pico"])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if re.match(r"\| (LLaVA-CAM|attention|Simignore|even)", line)]
    assert len(rows) == 1 + 4 * 6 + 1
    last = next(row for row in rows if row.startswith("| LLaVA-CAM | 5 |"))
    assert last.split("|")[3].strip() == "-", "CAM of the last layer has no heat"
    even = float(rows[0].split("|")[3].split("(")[0])
    similar = float(rows[-1].split("|")[3].split("(")[0])
    assert 1 < even < 20 and similar > 2 * even, "pico is trained to have similarity on the needed patches"
