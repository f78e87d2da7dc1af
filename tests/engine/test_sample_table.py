"""Lines of the table of samples, from a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_simignore.engine.evaluate import evaluate
from lit_simignore.engine.sample_table import _Picture, flip, kept_mask, sample_rows
from lit_simignore.metrics.records import read_run
from lit_simignore.types import Prediction
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor, settings


def test_samples_with_pictures_come_first_and_rows_are_capped(tmp_path: Path) -> None:
    evaluate(*model_and_processor(), Toy(), (BASELINE, STRIDE), tmp_path, settings(report_samples=2))
    rows = list(sample_rows(tmp_path, ["baseline", "stride"], 7))
    assert [row.texts["sample_id"] for row in rows[:4]] == ["q0", "q0", "q1", "q1"]
    assert len(rows) == 7
    assert [row.image is not None for row in rows] == [True] * 4 + [False] * 3
    records = read_run(tmp_path).predictions
    stride = rows[1]
    assert stride.texts["baseline_output"] == records["q0", "baseline"].output
    assert stride.texts["output"] == records["q0", "stride"].output
    assert stride.image is not None and stride.mask is not None
    assert stride.mask.shape == stride.image.size[::-1]
    assert stride.mask.mean() == pytest.approx(4 / 16)
    assert rows[0].mask is not None and rows[0].mask.min() == 1


def test_a_mask_lies_where_the_patches_are() -> None:
    mask = kept_mask([1, 5, 99], _Picture(Image.new("RGB", (30, 20)), rows=2, cols=3))
    assert mask is not None
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[:10, 10:20] = 1
    expected[10:, 20:] = 1
    assert np.array_equal(mask, expected)
    assert kept_mask([1], _Picture(Image.new("RGB", (30, 20)), rows=0, cols=0)) is None


def test_a_flip_is_a_change_of_the_score() -> None:
    def scored(score: float | None) -> Prediction:
        return Prediction("s", "m", "", "", None, score=score)

    assert flip(scored(0), scored(1)) == "fixed"
    assert flip(scored(1), scored(0.5)) == "broken"
    assert [flip(scored(1), scored(1)), flip(None, scored(1)), flip(scored(None), scored(1))] == ["", "", ""]


def test_an_index_cannot_show_a_file_from_elsewhere(tmp_path: Path) -> None:
    evaluate(*model_and_processor(), Toy(size=1), (BASELINE,), tmp_path / "run", settings(report_samples=1))
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    index = {"q0": [{"file": "../../secret.png", "rows": 4, "cols": 4}]}
    (tmp_path / "run" / "media" / "index.json").write_text(json.dumps(index))
    (row,) = sample_rows(tmp_path / "run", ["baseline"], 9)
    assert row.image is None
