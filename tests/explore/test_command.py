"""``python -m lit_simignore.explore``: help, configuration, and failures of one line."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lit_simignore.explore.__main__ import main

Printed = pytest.CaptureFixture[str]


def test_help_lists_every_key_with_its_sentence(capsys: Printed) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "model= llava-1.5-13b, llava-1.5-7b, pico, pico-unaligned" in out
    assert "max_upload_mib  [an integer; default 32]" in out
    assert "experiment" not in out


def test_cfg_prints_the_configuration(capsys: Printed) -> None:
    assert main(["--cfg", "model=llava-1.5-7b", "port=0"]) == 0
    config = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert (config["model"]["path"], config["port"]) == ("llava-hf/llava-1.5-7b-hf", 0)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["prot=1"], 2, "error: prot: unknown key; did you mean 'port'"),
        (["port=70000"], 2, "error: port: expected 0 (any free one) to 65535, got 70000"),
        (["max_new_tokens=0"], 2, "error: max_new_tokens: expected at least 1, got 0"),
        (["model=nothing"], 2, "error: model: unknown option 'nothing'"),
        (["port=0", "model=./tests"], 1, "error: cannot load './tests' as a model: expected a bundled name"),
        (["port=0", "device=nonsense"], 1, "error: device=nonsense:"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    argv: list[str], code: int, words: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(argv) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith(words)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_simignore.explore.server.load_model", lambda config: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([f"port={port}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use; ")


def test_a_missing_extra_is_named(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert main([]) == 1
    assert capsys.readouterr().err == "error: the page needs uvicorn: pip install -e '.[explore]'\n"
