"""The script that measures prefills runs, and what it counts (not how fast it was) is right."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def script(load_script) -> ModuleType:
    return load_script("performance/prefill")


def test_the_table_has_a_line_per_method_and_length_and_is_written_where_asked(script, tmp_path, capsys) -> None:
    argv = ["--device", "cpu", "--size", "tiny", "--visual", "36", "72", "--rounds", "2"]
    script.main(argv)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) == 1 + 2 * 5
    assert all(line.count("|") == len(script.HEADLINE) + 1 for line in lines)
    script.main([*argv, "--write", str(tmp_path / "out.md")])
    assert "| FastV before layer 2, 9 kept |" in (tmp_path / "out.md").read_text(encoding="utf-8")


def test_counts_are_those_of_the_methods(script) -> None:
    model = script.build_model(script.SIZES["tiny"], torch.device("cpu"), torch.float32)
    records = script.measure(model, 36, batch=2, rounds=3)
    dense, before, inside = records["untouched"], records["Simignore, 9 kept"], records["FastV before layer 2, 9 kept"]
    assert all(len(record.prefill) == 3 for record in records.values())
    assert (len(dense.selection), len(before.selection)) == (0, 3)
    text = script.TEXT_TOKENS
    assert dense.cache_bytes == 2 * 4 * (text + 36) * 64 * 2 * 4  # batch, layers, positions, hidden, keys and values
    assert before.cache_bytes / dense.cache_bytes == (text + 9) / (text + 36)
    assert inside.cache_bytes / dense.cache_bytes == (2 * (text + 36) + 2 * (text + 9)) / (4 * (text + 36))
    shape = script.DecoderShape.from_config(model.config)
    cells = {row[1]: row for row in script.rows(records, 36, shape)}
    assert cells["untouched"][6:9] == ["1.00", "1.00 (1.00-1.00)", "1.00 (1.00)"]
    length = text + 36
    half = 4 * (shape.linear_flops * length + shape.pair_flops * length**2 / 2) + shape.head_flops
    assert script.causal_flops(shape, dense.budget) == half
    assert float(cells["Simignore, 9 kept"][6]) > float(cells["FastV before layer 2, 9 kept"][6]) > 1


def test_decoding_goes_on_with_every_cache(script, monkeypatch) -> None:
    model = script.build_model(script.SIZES["tiny"], torch.device("cpu"), torch.float32)
    prompt, counted = script.build_prompt(model, 36, 1), []

    @contextmanager
    def three_waits():
        counted.append(1)
        yield ["wait"] * 3

    monkeypatch.setattr(script, "synchronisations", three_waits)
    for contestant in script.contestants(36):
        record = script.Record()
        script.count_synchronisations(model, contestant, prompt, record)
        assert (record.syncs_prefill, record.syncs_per_token) == (3, 3 / script.DECODE_STEPS)
    assert len(counted) == 2 * 5


def test_a_wait_is_what_torch_calls_one_and_the_mode_is_switched_off_again(script, monkeypatch) -> None:
    modes = []

    def switch(mode: str) -> None:
        modes.append(mode)
        # torch says so once, whenever the mode is first set
        warnings.warn(
            "Synchronization debug mode is a prototype feature; not all synchronizing operations", stacklevel=1
        )

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switch)
    with script.synchronisations() as found:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert len(found) == 2
    with pytest.raises(RuntimeError), script.synchronisations():
        raise RuntimeError("out of memory")
    assert modes == ["warn", "default", "warn", "default"]
