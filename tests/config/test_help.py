"""Every key has a sentence, and the help shows every key and every choice."""

from __future__ import annotations

import pytest

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.cli import TrainKeys, eval_main
from lit_simignore.config import folders
from lit_simignore.config.schema import (
    GROUPS,
    EfficiencyConfig,
    EvalConfig,
    FlowConfig,
    LoggerConfig,
    ModelConfig,
    ReportConfig,
    RunConfig,
    TrainerConfig,
)
from lit_simignore.config.sentences import first_line, sentences
from lit_simignore.config.typed import configurable
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.pico.config import PicoConfig
from lit_simignore.pruning import PRUNERS

SECTIONS = [
    EvalConfig, TrainKeys, ModelConfig, TrainerConfig, LoggerConfig, ReportConfig, EfficiencyConfig, RunConfig,
    FlowConfig, PicoConfig,
]
EXTENSIONS = {**PRUNERS(), **INTERVENTIONS(), **BENCHMARKS()}


@pytest.mark.parametrize("cls", [*SECTIONS, *EXTENSIONS.values()], ids=lambda cls: cls.__name__)
def test_every_field_has_a_sentence_of_its_own(cls: type) -> None:
    found = sentences(cls)
    missing = [field.name for field in configurable(cls) if not found.get(field.name)]
    assert not missing
    assert first_line(cls)


def test_help_shows_every_key_every_choice_and_every_extension(capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_main(["--help"]) == 0
    text = capsys.readouterr().out
    sections = {"model": ModelConfig, "trainer": TrainerConfig, "logger": LoggerConfig, "report": ReportConfig}
    for where, cls in {**sections, "efficiency": EfficiencyConfig, "flow": FlowConfig, "run": RunConfig}.items():
        for field in configurable(cls):
            assert f"  {where}.{field.name}  [" in text
    for group in (*GROUPS, "method"):
        assert all(name in text for name in folders.options(group))
    for name, cls in EXTENSIONS.items():
        assert f"\n{name}: " in text
        assert all(f"  {field.name}  [" in text for field in configurable(cls))
    assert max(map(len, text.splitlines())) <= 120
