"""The script that measures training runs, and what it says about memory is what torch holds."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def script(load_script) -> ModuleType:
    return load_script("performance/training")


@pytest.mark.slow
def test_the_table_has_two_lines_per_setting_and_is_written_where_asked(script, tmp_path, capsys) -> None:
    script.main(["--size", "tiny", "--tuning", "lora", "--rounds", "1", "--write", str(tmp_path / "out.md")])
    page = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert page.strip() == capsys.readouterr().out.strip()
    assert all(f"| lora | {said} | {share} |" in page for said in ("no", "yes") for share in script.SHARES)


def test_what_is_kept_for_backward_is_counted_once_and_without_parameters(script) -> None:
    first, second = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
    model = torch.nn.Sequential(first, second)
    with script.kept_for_backward(model) as storages, script.saving(storages):
        x = torch.randn(4, 8)
        hidden = first(x)
        (second(hidden) * hidden).sum()
    # x for the first weight; hidden for the second weight and for the product; the second output for the product
    assert sum(storages.values()) == 3 * 4 * 8 * 4


def test_a_quarter_keeps_less_and_checkpointing_less_again(script) -> None:
    kept = {}
    for checkpointing in (False, True):
        setting = script.Setting("lora", checkpointing)
        bench = script.Bench(script.SHAPES["tiny"], setting, torch.device("cpu"), torch.float32, 1)
        for name, parts in script.SHARES.items():
            kept[checkpointing, name] = bench.kept_mib(parts)
    assert kept[False, "all"] > 2.5 * kept[False, "a quarter"] > 2.5 * kept[True, "a quarter"]
    assert kept[False, "all"] > 5 * kept[True, "all"]
