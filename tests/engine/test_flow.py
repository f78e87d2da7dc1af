"""The analysis of a run on the tiny model: what it writes, what it keeps, what it does not compute twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_simignore.attribution.clusters import kmeans
from lit_simignore.engine import flow as engine_flow
from lit_simignore.engine import flow_truncation
from lit_simignore.engine.evaluate import evaluate
from lit_simignore.engine.flow import FlowPlan, analyse_flow
from lit_simignore.metrics.records import read_run
from lit_simignore.pruning.text_only import TextOnly
from lit_simignore.pruning.truncation import Truncation
from lit_simignore.surgery.prepare import prepare
from lit_simignore.types import Method, Sample, UserError
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor, settings
from tests.masked_reference import generate, reference_inputs

PLAN = FlowPlan(samples=4, shown=3, truncation=4, clusters=3, batch_size=3)


def analysed(folder: Path, plan: FlowPlan = PLAN, benchmark: Toy | None = None) -> tuple[Any, dict[str, Any]]:
    model, processor = model_and_processor()
    chosen = settings(report_samples=5)
    evaluate(model, processor, benchmark or Toy(), (BASELINE, STRIDE), folder, chosen)
    analyse_flow(model, processor, benchmark or Toy(), folder, plan, chosen)
    return model, json.loads((folder / "flow" / "flow.json").read_text())["parts"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, analysed(folder)[1]


def test_the_folder_holds_arrays_of_every_part(run: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = run
    assert set(parts) == {"averages", "samples", "truncation"}
    with np.load(folder / "flow" / parts["averages"]["file"], allow_pickle=False) as found:
        assert found["shares"].shape == (4, 4, 4) and found["sinks"].shape == (4, 4, 4)
        assert np.allclose(found["shares"].sum(axis=-1), 1, atol=1e-5)
        assert np.allclose(found["shares_interval"][0], found["shares"].mean(axis=0), atol=1e-6)
        assert (found["shares_interval"][1] <= found["shares_interval"][2]).all()
        assert np.allclose(found["needed_area"], 1 / 16)
        on_needed = found["on_needed"][:, 1]
        assert ((on_needed >= 0) & (on_needed <= 1)).all()
        assert sorted(found["samples"].tolist()) == sorted(["q1", "q4", "q6", "q9"])
    shown = parts["samples"]["samples"]
    assert [entry["sample_id"] for entry in shown] == ["q0", "q1", "q2"], "even and odd in turn"
    with np.load(folder / "flow" / shown[0]["file"], allow_pickle=False) as found:
        assert found["cam"].shape == (4, 16) and found["attention"].shape == (4, 4, 16)
        assert np.flatnonzero(found["needed"]).tolist() == [0]
        assert len(set(found["clusters"].tolist())) == 3
    records = read_run(folder).predictions
    assert [entry["output"] for entry in shown] == [records[entry["sample_id"], "baseline"].output for entry in shown]


def test_answers_without_clusters_are_those_of_a_model_without_these_tokens(run: tuple[Path, dict[str, Any]]) -> None:
    """The oracle tells the untouched model, by its mask, which columns to leave out."""
    folder, parts = run
    entry = parts["samples"]["samples"][1]
    with np.load(folder / "flow" / entry["file"], allow_pickle=False) as found:
        labels = torch.tensor(found["clusters"])
    model, processor = model_and_processor()
    sample = next(sample for sample in Toy().load() if sample.sample_id == entry["sample_id"])
    inputs, _ = prepare(processor, [sample])
    with torch.no_grad():
        rows = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True).pooler_output[0]
    assert torch.equal(kmeans(rows, 3).labels, labels)
    assert [item["clusters"] for item in entry["ablation"]] == [[], [0], [1], [2], [0, 1], [0, 2], [1, 2]]
    verdicts = []
    for item in entry["ablation"]:
        kept = (~torch.isin(labels, torch.tensor(item["clusters"], dtype=torch.long))).nonzero()[:, 0]
        with torch.no_grad():
            ids = generate(model, reference_inputs(dict(inputs), [kept]), tokens=3)[0]
        text = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
        assert item["output"] == text and item["num_kept"] == len(kept)
        right = Toy().score(Toy().parse(text, sample), sample) == 1
        before = verdicts[0][0] if verdicts else right
        verdicts.append((right, "" if not verdicts else "neutral" if right == before else "spy" if right else "needed"))
    assert [item["verdict"] for item in entry["ablation"]] == [verdict for _, verdict in verdicts]


def test_the_sweep_scores_every_layer_as_an_evaluation_does(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, parts = run
    with np.load(folder / "flow" / "truncation.npz", allow_pickle=False) as found:
        ids = found["samples"].tolist()
        scores = dict(zip(found["layers"].tolist(), found["scores"], strict=True))
    assert sorted(scores) == [-1, 0, 1, 2, 3]
    model, processor = model_and_processor()
    methods = [BASELINE, Method("0", (TextOnly(),)), *(Method(str(k), (Truncation(layer_idx=k),)) for k in (1, 2, 3))]
    summary = evaluate(model, processor, Toy(), methods, tmp_path, settings())
    assert summary["run"]["complete"]
    expected = read_run(tmp_path).predictions
    for layer, found_scores in scores.items():
        name = "baseline" if layer == -1 else str(layer)
        assert found_scores.tolist() == [expected[sample, name].score for sample in ids]
    assert [point["layer_idx"] for point in parts["truncation"]["cliff"]["curve"]] == [0, 1, 2, 3]


def test_a_second_call_computes_nothing_and_another_question_only_its_own_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, parts = analysed(tmp_path)
    calls: list[str] = []
    for module, name in ((engine_flow, "information_flow"), (engine_flow, "leave_clusters_out")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, _name=name, **k: calls.append(_name) or _real(*a, **k))
    real_scores = flow_truncation._scores
    monkeypatch.setattr(flow_truncation, "_scores", lambda *a: calls.append("layer") or real_scores(*a))
    chosen, processor = settings(report_samples=5), model_and_processor()[1]
    analyse_flow(model, processor, Toy(), tmp_path, PLAN, chosen)
    assert calls == []
    analyse_flow(model, processor, Toy(), tmp_path, dataclasses.replace(PLAN, tolerance=0.5), chosen)
    assert calls == [], "another tolerance reads the same scores"
    analyse_flow(model, processor, Toy(), tmp_path, dataclasses.replace(PLAN, clusters=0, truncation=0), chosen)
    assert set(calls) == {"information_flow"}
    assert set(json.loads((tmp_path / "flow" / "flow.json").read_text())["parts"]) == {"averages", "samples"}


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = flow_truncation._scores, []

    def scores(*arguments: Any) -> np.ndarray:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments[4])
        return real(*arguments)

    monkeypatch.setattr(flow_truncation, "_scores", scores)
    with pytest.raises(KeyboardInterrupt):
        analysed(tmp_path)
    monkeypatch.setattr(flow_truncation, "_scores", lambda *a: done.append(a[4]) or real(*a))
    analysed(tmp_path)
    assert len(done) == 5 and [parts[0].stage for parts in done[2:]] == [1, 2, 3]


def test_a_picture_that_cannot_be_opened_costs_its_own_sample(tmp_path: Path) -> None:
    def broken(sample: Sample) -> Sample:
        gone = sample.sample_id == "q1"
        return dataclasses.replace(sample, images=(tmp_path / "no.png",)) if gone else sample

    _, parts = analysed(tmp_path / "run", benchmark=Toy(change=broken))
    assert parts["averages"]["num_samples"] == 3 and list(parts["averages"]["left_out"]) == ["q1"]
    assert "no.png" in parts["averages"]["left_out"]["q1"]
    assert [entry["sample_id"] for entry in parts["samples"]["samples"]] == ["q0", "q2"]
    assert parts["truncation"]["left_out"] == 1


def test_what_fails_together_is_tried_in_halves_and_what_fails_alone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = engine_flow.information_flow, []

    def narrow(model: Any, inputs: Any, answers: Any, **options: Any) -> Any:
        sizes.append(len(answers))
        if len(answers) > 1:
            raise MemoryError("no room")
        if "q4" in options["spans"].keys:  # noqa: SIM118 - a tuple of sample ids
            raise RuntimeError("an odd sample")
        return real(model, inputs, answers, **options)

    monkeypatch.setattr(engine_flow, "information_flow", narrow)
    _, parts = analysed(tmp_path)
    assert parts["averages"]["left_out"] == {"q4": "RuntimeError: an odd sample"}
    assert parts["averages"]["num_samples"] == 3 and 2 in sizes and 3 in sizes
    with np.load(tmp_path / "flow" / "averages.npz", allow_pickle=False) as found:
        assert sorted(found["samples"].tolist()) == ["q1", "q6", "q9"]


def test_what_cannot_be_analysed_is_refused_in_one_line(tmp_path: Path) -> None:
    model, processor = model_and_processor()
    with pytest.raises(UserError, match="evaluate first"):
        analyse_flow(model, processor, Toy(), tmp_path)
    evaluate(model, processor, Toy(), (BASELINE,), tmp_path, settings())
    blind = Toy(change=lambda sample: dataclasses.replace(sample, images=()))
    with pytest.raises(UserError, match="samples with images"):
        analyse_flow(model, processor, blind, tmp_path, settings=settings())
    with pytest.raises(UserError, match="layers from 0 to 3"):
        analyse_flow(model, processor, Toy(), tmp_path, FlowPlan(layers=(7,)), settings())
    with pytest.raises(UserError, match="flow.clusters must be at least 0"):
        FlowPlan(clusters=-1)
