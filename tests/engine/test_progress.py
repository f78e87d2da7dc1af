"""What stands behind the progress bar."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.engine.evaluate import evaluate
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor, settings


def test_the_bar_tells_speed_score_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail_sometimes(output: str, sample: object) -> None:
        if getattr(sample, "sample_id", "") == "q2":
            raise KeyError("q2")

    benchmark = Toy(on_parse=fail_sometimes)
    summary = evaluate(*model_and_processor(), benchmark, (BASELINE, STRIDE), tmp_path, settings(progress=True))
    shown = capsys.readouterr().out.replace("\r", "\n")
    last = [line for line in shown.splitlines() if "3/3" in line][-1]
    assert last.startswith("Evaluating: 100%")
    assert "samples/s=" in last
    assert f"baseline={summary['methods'][0]['accuracy']:.1%}" in last
    assert "errors=2" in last
    assert "Testing" not in shown
