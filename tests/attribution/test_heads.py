from __future__ import annotations

import pytest
import torch

from lit_simignore.attribution.heads import column_means, dense_heads, image_attention, sink_counts
from lit_simignore.interventions._sinks import column_means as means_inside_eah
from lit_simignore.interventions.base import LayerContext
from lit_simignore.types import UserError
from tests.interventions.layer import SCALING, prompt

SAMPLE = prompt(21, [slice(3, 9), slice(12, 15)], seed=3)
COLUMNS = SAMPLE.visual.nonzero().flatten().tolist()


def chunks(size: int):
    maps = SAMPLE.maps()
    for rows in torch.arange(SAMPLE.length).split(size):
        yield rows, maps[:, rows]


def test_attention_on_the_image_is_the_mean_over_queries() -> None:
    maps = SAMPLE.maps()
    found = image_attention(maps[:, [18, 20]], SAMPLE.visual)
    for head in range(4):
        for place, column in enumerate(COLUMNS):
            assert abs(float(found[head, place]) - float(maps[head, 18, column] + maps[head, 20, column]) / 2) < 1e-6


@pytest.mark.parametrize("size", [1, 4, 21])
def test_column_means_leave_out_the_diagonal_and_divide_by_the_rows_below(size: int) -> None:
    maps, means = SAMPLE.maps(), column_means(chunks(size), SAMPLE.visual)
    for head in range(4):
        for place, column in enumerate(COLUMNS):
            below = [float(maps[head, row, column]) for row in range(column + 1, SAMPLE.length)]
            assert abs(float(means[head, place]) - sum(below) / len(below)) < 1e-6


def test_the_sinks_are_those_that_eah_counts() -> None:
    alive = torch.ones(1, SAMPLE.length, dtype=torch.bool)
    context = LayerContext(1, 4, SAMPLE.visual[None], alive, SCALING)
    inside = means_inside_eah(SAMPLE.query[None], SAMPLE.key[None], context)[0, :, SAMPLE.visual]
    outside = column_means(chunks(5), SAMPLE.visual)
    assert torch.allclose(inside, outside, atol=1e-6)
    limit = float(outside.median()) + 1e-5
    assert torch.equal(sink_counts(inside, limit), sink_counts(outside, limit))


def test_a_column_without_rows_below_gets_nothing() -> None:
    visual = torch.zeros(4, dtype=torch.bool)
    visual[2:] = True
    maps = torch.rand(2, 4, 4)
    assert column_means([(torch.arange(4), maps)], visual)[:, 1].tolist() == [0, 0]
    with pytest.raises(UserError, match="at least one query row"):
        column_means([], visual)


def test_layers_stack_to_a_grid_of_counts_and_dense_heads() -> None:
    means = torch.tensor([[[0.5, 0.1, 0.3]], [[0.0, 0.2, 0.1]]])  # 2 layers, 1 head, 3 tokens
    counts = sink_counts(means, 0.2)
    assert counts.tolist() == [[2], [0]]
    assert dense_heads(counts, 3).tolist() == [[True], [False]]
