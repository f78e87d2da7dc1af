from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning import _clusters
from lit_simignore.pruning._clusters import density_peaks
from lit_simignore.pruning._raters import rater_weights
from lit_simignore.pruning.base import Features
from lit_simignore.pruning.sparsevlm import SparseVLM
from lit_simignore.types import UserError
from tests.pruning.naive_llama import NaiveLlama
from tests.pruning.released import Released, released
from tests.pruning.shapes import Shape

CLOSE = {"atol": 1e-4, "rtol": 0}


def run(reference: Released, pruner: SparseVLM, monkeypatch: pytest.MonkeyPatch) -> tuple[NaiveLlama, torch.Tensor]:
    """The decoder under ``pruner``, whose random ties are the recorded draws."""
    draws = {layer: reference[f"stage{number}_density_noise_draw"] for number, layer in enumerate((3, 7, 16))}
    monkeypatch.setattr(_clusters, "tie_noise", lambda key, layer, count: draws[layer][:count])
    llama = NaiveLlama(reference)
    embeds = reference["inputs_embeds"][0]
    rows = llama.run(embeds, reference.count("image_start"), reference.count("num_image_tokens"), [pruner])
    return llama, rows


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plain_decoder_with_the_released_preset_gives_the_released_hidden_states(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = released("sparsevlm", seed)
    pruner = SparseVLM.preset(f"released-{reference.count('retained_tokens')}")
    assert list(pruner.num_keep or ()) == reference.numbers("keep_list")
    llama, rows = run(reference, pruner, monkeypatch)
    torch.testing.assert_close(rows, reference["final_hidden_states"][0], **CLOSE)
    for number, stage in enumerate(llama.stages):
        check_stage(reference, number, stage.features, stage.selection.scores)
        kept = reference[f"stage{number}_kept_local"]
        merged, sources = stage.selection.merged, stage.selection.sources
        assert merged is not None and sources is not None
        assert [row[0] for row in sources[: len(kept)]] == kept.tolist()
        torch.testing.assert_close(merged[len(kept) :], reference[f"stage{number}_merged_tokens"], **CLOSE)
        candidates = reference[f"stage{number}_merge_candidates_local"]
        cluster = reference[f"stage{number}_cluster_of_candidate"]
        groups = [sorted(candidates[cluster == c].tolist()) for c in range(len(merged) - len(kept))]
        assert [list(row) for row in sources[len(kept) :]] == groups
        assert torch.equal(stage.positions_after, reference[f"stage{number}_position_ids_after"])


def check_stage(reference: Released, number: int, features: Features, scores: torch.Tensor | None) -> None:
    assert features.visual.shape[0] == int(reference[f"stage{number}_num_visual_before"])
    raters = rater_weights(object(), features).nonzero().flatten()
    assert torch.equal(raters, reference["raters"])
    assert scores is not None
    torch.testing.assert_close(scores, reference[f"stage{number}_score"], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_clusters_are_the_released_ones(seed: int, stage: int) -> None:
    reference = released("sparsevlm", seed)
    expected = reference[f"stage{stage}_cluster_centers"]
    noise = reference[f"stage{stage}_density_noise_draw"]
    centres, cluster = density_peaks(reference[f"stage{stage}_merge_input"], len(expected), noise)
    assert torch.equal(centres, expected)
    assert torch.equal(cluster, reference[f"stage{stage}_cluster_of_candidate"])
    if seed == 0:  # without noise the same centres come out
        assert torch.equal(density_peaks(reference[f"stage{stage}_merge_input"], len(expected))[0], expected)


def naive_density_peaks(rows: torch.Tensor, num_clusters: int) -> tuple[list[int], list[int]]:
    count, width = rows.shape
    double = rows.double()
    distance = [[float((double[i] - double[j]).norm()) / width**0.5 for j in range(count)] for i in range(count)]
    density = []
    for i in range(count):
        nearest = sorted(distance[i])[:num_clusters]
        density.append(float(torch.tensor(-sum(d * d for d in nearest) / num_clusters, dtype=torch.float64).exp()))
    largest = max(max(row) for row in distance)

    def denser(j: int, i: int) -> bool:
        return density[j] > density[i] + 1e-12 or (abs(density[j] - density[i]) <= 1e-12 and j < i)

    peak = [
        density[i] * min((distance[i][j] for j in range(count) if denser(j, i)), default=largest) for i in range(count)
    ]
    centres = sorted(range(count), key=lambda i: (-peak[i], i))[:num_clusters]
    cluster = [
        centres.index(i) if i in centres else min(range(num_clusters), key=lambda c: distance[i][centres[c]])
        for i in range(count)
    ]
    return centres, cluster


@pytest.mark.parametrize(("count", "num_clusters"), [(1, 1), (9, 1), (12, 2), (30, 4), (6, 6)])
def test_without_noise_ties_go_to_the_earlier_row(count: int, num_clusters: int) -> None:
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(count))
    centres, cluster = density_peaks(rows, num_clusters)
    assert (centres.tolist(), cluster.tolist()) == naive_density_peaks(rows, num_clusters)


def random_stage(num_visual: int = 60, num_input: int | None = None) -> Features:
    generator = torch.Generator().manual_seed(num_visual)
    rows, text = torch.randn(num_visual, 6, generator=generator), torch.randn(5, 6, generator=generator)
    attention = torch.rand(2, 5, num_visual, generator=generator)
    return Features(
        visual=rows,
        text=text,
        text_attention=attention,
        input_visual=rows,
        input_text=text,
        num_input=num_input,
        key="a",
    )


def test_by_default_merged_tokens_stand_at_the_centre_of_their_group_in_reading_order() -> None:
    features = random_stage()
    selection = SparseVLM(layers=(3,), num_keep=(10,)).stages()[0].choose(features)
    assert selection.merged is not None and selection.sources is not None
    assert torch.equal(selection.kept, selection.kept.unique()) and len(selection.kept) == 12
    carried = []
    for slot, row, sources in zip(selection.kept.tolist(), selection.merged, selection.sources, strict=True):
        assert slot in sources
        torch.testing.assert_close(row, features.visual[list(sources)].mean(0), atol=1e-5, rtol=0)
        carried += sources
    assert len(carried) == len(set(carried)) == 10 + 16  # int(0.3 * 50) + 1 of the dropped ones live on


def test_without_merging_only_the_best_stay() -> None:
    features = random_stage()
    selection = SparseVLM(layers=(3,), num_keep=(10,), merge=False).stages()[0].choose(features)
    assert selection.merged is None and len(selection.kept) == 10


@pytest.mark.parametrize(
    ("present", "num_keep", "expected"), [(7, 7, 7), (7, 9, 7), (7, 6, 7), (7, 0, 1), (1, 0, 1), (0, 3, 0)]
)
def test_small_stages_keep_all_or_merge_the_one_that_is_over(present: int, num_keep: int, expected: int) -> None:
    stage = SparseVLM(layers=(3,), num_keep=(num_keep,)).stages()[0]
    assert len(stage.choose(random_stage(present)).kept) == expected
    assert stage.survivors(present, present) == expected


def test_released_ties_depend_on_the_sample_alone() -> None:
    stage = SparseVLM.preset("released", layers=(3,), num_keep=(10,)).stages()[0]
    first, again = stage.choose(random_stage()), stage.choose(random_stage())
    assert torch.equal(first.merged, again.merged)  # type: ignore[arg-type]
    assert not torch.equal(_clusters.tie_noise("a", 3, 9), _clusters.tie_noise("b", 3, 9))
    assert not torch.equal(_clusters.tie_noise("a", 3, 9), _clusters.tie_noise("a", 7, 9))


def test_one_text_token_is_its_own_rater_and_none_is_refused() -> None:
    features = random_stage()
    features.input_text = features.input_text[:1]  # type: ignore[index]
    assert rater_weights(object(), features).tolist() == [1.0]
    features.input_text = features.input_text[:0]
    with pytest.raises(UserError, match="rates visual tokens by text tokens; the sample has none"):
        SparseVLM(layers=(3,), num_keep=(10,)).stages()[0].choose(features)


def test_the_schedule_counts_merged_tokens_as_the_reference_run_does() -> None:
    reference = released("sparsevlm", 0)
    schedule = SparseVLM.preset("released-192").visual_per_layer(576, 17)
    assert [schedule[6], schedule[15]] == [int(reference[f"stage{i}_num_visual_before"]) for i in (1, 2)]
    assert schedule[:4] == [576, 576, 576, 309] and schedule[16] == 113


def test_a_budget_scales_the_list_and_counts_merged_tokens() -> None:
    shape = Shape(num_layers=32, num_visual=576)
    solved = SparseVLM.preset("released-192").with_budget("layer_mean", 128, shape)
    assert abs(sum(solved.visual_per_layer(576, 32)) / 32 - 128) < 1
    with pytest.raises(UserError, match="SparseVLM spends at least"):
        SparseVLM().with_budget("layer_mean", 50, shape)
    with pytest.raises(UserError, match="a final budget of SparseVLM depends on the decoder"):
        SparseVLM().with_budget("final", 50)  # merged tokens depend on how many there were
    assert SparseVLM(merge=False).with_budget("final", 11).num_keep == (30, 20, 11)
