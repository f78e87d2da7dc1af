"""The loop by itself, as in a notebook: what it asks the model, what it records, and what a failure costs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import pytest
import torch

from lit_simignore.data.datamodule import SampleDataModule
from lit_simignore.engine import evaluator as module
from lit_simignore.engine.evaluator import LitEvaluator, baseline_first
from lit_simignore.engine.generation import Answers, Prompts
from lit_simignore.metrics.patches import needed_recall
from lit_simignore.pruning.pooling import Pooling
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.prepare import prepare
from lit_simignore.types import Method, Prediction, Role, Sample, Segment, UserError
from tests.engine.toys import BASELINE, STRIDE, Toy, model_and_processor
from tests.tiny_models import tiny_image


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def answered(
    *methods: Method, benchmark: Toy | None = None, samples: Any = None, model: Any = None, **options: Any
) -> list[Prediction]:
    """What the loop records, without a run folder."""
    benchmark = benchmark or Toy(size=5)
    tiny, processor = model_and_processor()
    lit = LitEvaluator(model or tiny, processor, benchmark, methods or (STRIDE, BASELINE), **options)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.test(lit, SampleDataModule(benchmark.load() if samples is None else samples, batch_size=4), verbose=False)
    return lit.predictions


def by_key(records: list[Prediction]) -> dict[tuple[str, str], Prediction]:
    return {(record.sample_id, record.method): record for record in records}


def test_the_baseline_comes_first_in_every_batch() -> None:
    records = answered()
    assert [record.method for record in records] == ["baseline"] * 4 + ["stride"] * 4 + ["baseline", "stride"]
    mixed = [STRIDE, BASELINE, Method("z", STRIDE.parts)]
    assert [method.name for method in baseline_first(mixed)] == ["baseline", "stride", "z"]


def test_outputs_are_those_of_greedy_generation_with_the_parts_attached() -> None:
    model, processor = model_and_processor()
    samples = [sample for sample in Toy(size=5).load() if sample.sample_id in ("q0", "q1", "q2", "q3")]
    found = by_key(answered(samples=samples))
    for method in (BASELINE, STRIDE):
        for sample in samples:  # one by one, hence without padding
            inputs, spans = prepare(processor, [sample])
            with attach(model, *method.parts, spans=spans):
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=3)
            text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            assert found[sample.sample_id, method.name].output == text.strip()


def about_two_pictures(sample: Sample) -> Sample:
    number = int(sample.sample_id[1:]) % 2
    return dataclasses.replace(sample, images=(tiny_image(number),), kind="", group_id=f"picture {number}")


def test_a_picture_is_read_once_for_all_questions_of_a_batch_about_it() -> None:
    """By the untouched model; the same records as without, and a sample without a picture ends the sharing."""
    benchmark, read = Toy(size=8, change=about_two_pictures), []
    text = Sample("text", (Segment("What colour ?", Role.QUESTION),), answer="A")
    model, _ = model_and_processor()
    model.model.vision_tower.register_forward_pre_hook(lambda tower, args: read.append(len(args[0])))
    found = answered(benchmark=benchmark, model=model)
    assert read == [1, 4, 1, 4], "pictures that the tower saw: of the untouched model and of the pruned one, per batch"
    separate = answered(benchmark=benchmark, share_images=False)
    timeless = [[dataclasses.replace(record, latency_ms=0) for record in records] for records in (found, separate)]
    assert timeless[0] == timeless[1]
    read.clear()
    answered(BASELINE, samples=[*benchmark.load()[:3], text], model=model)
    assert read == [3]


def test_a_record_says_what_was_spent_and_scored() -> None:
    record = by_key(answered(detailed=["q1"]))["q1", "stride"]
    sample = Toy(size=5).load()[1]
    assert (record.num_visual_tokens, record.num_kept, record.batch_size) == (16, 4, 4)
    assert (record.prompt, record.answer, record.kind) == (sample.prompt, "A", "odd")
    assert record.latency_ms > 0
    assert record.parsed == record.output.split()[0]
    assert record.score == float(len(record.parsed) % 2 == 0)
    budget = record.extra["budget"]
    assert isinstance(budget, dict)
    assert (budget["total"], budget["input"], budget["final"]) == (16, 4, 4)
    assert record.kept is not None
    assert record.needed_recall == needed_recall(record.kept, sample.needed, [(4, 4)])
    assert record.extra["grids"] == [[4, 4]]


def test_a_merging_rule_is_also_scored_by_what_its_rows_are_made_of() -> None:
    pooled = Method("pooled", (Pooling(num_keep=4),))
    found = by_key(answered(pooled))["q1", "pooled"]
    assert found.needed_carried == 1.0
    assert found.needed_recall in (0.0, 1.0)
    assert by_key(answered())["q1", "stride"].needed_carried is None


def test_a_text_only_sample_among_others_is_answered() -> None:
    text = Sample("text", (Segment("What colour ?", Role.QUESTION),), answer="A")
    found = by_key(answered(samples=[*Toy(size=3).load(), text]))
    assert found["text", "stride"].error is None
    assert found["text", "stride"].num_visual_tokens == 0


def test_a_sample_that_the_processor_refuses_fails_alone() -> None:
    broken = Sample("broken", (Segment("What <image> ?", Role.QUESTION),), answer="A")
    found = by_key(answered(samples=[*Toy(size=3).load(), broken]))
    assert {key[0] for key, record in found.items() if record.error} == {"broken"}
    assert "'broken'" in str(found["broken", "baseline"].error)
    assert found["q0", "stride"].batch_size == 3


def test_logits_that_are_no_numbers_are_the_error_of_their_row() -> None:
    model, _ = model_and_processor()

    def spoil(layer: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        if logits.shape[0] > 2:
            logits[1, -1, 7] = float("nan")
        return logits

    model.lm_head.register_forward_hook(spoil)
    records = answered(BASELINE, model=model)
    assert [record.error is None for record in records] == [True, False, True, True, True]
    assert "NaN" in str(records[1].error)
    assert records[1].score is None
    assert records[1].output == ""


def failing(real: Callable[..., Answers], fails: Callable[[Prompts], bool]) -> Callable[..., Answers]:
    def answer(model: Any, processor: Any, prompts: Prompts, parts: Any, max_new_tokens: int) -> Answers:
        if fails(prompts):
            raise RuntimeError(f"out of memory\nwith {len(prompts.samples)}")
        return real(model, processor, prompts, parts, max_new_tokens)

    return answer


def test_a_batch_that_fails_is_tried_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_key(answered())
    monkeypatch.setattr(module, "answer", failing(module.answer, lambda prompts: len(prompts.samples) > 1))
    found = by_key(answered())
    assert {record.batch_size for record in found.values()} == {1}
    assert {key: record.output for key, record in found.items()} == {key: r.output for key, r in expected.items()}


def cramped(cells: int) -> tuple[Any, list[tuple[int, int]]]:
    """A model that has no memory for more than so many rows times columns, and the prefills that it was asked for."""
    model, _ = model_and_processor()
    asked: list[tuple[int, int]] = []

    def allocate(layer: Any, args: tuple[torch.Tensor, ...]) -> None:
        rows, columns = args[0].shape[:2]
        if columns > 1:
            asked.append((rows, columns))
        if rows * columns > cells:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    model.get_decoder().layers[0].register_forward_pre_hook(allocate)
    return model, asked


@pytest.mark.parametrize("on_error", ["record", "raise"])
def test_a_batch_without_memory_is_halved_and_later_ones_are_not_tried_whole(on_error: str) -> None:
    benchmark = Toy(size=13)
    expected = {key: record.output for key, record in by_key(answered(BASELINE, benchmark=benchmark)).items()}
    model, asked = cramped(2 * 59)  # the longest prompts have 59 columns
    found = by_key(answered(BASELINE, benchmark=benchmark, model=model, on_error=on_error))
    assert {key: record.output for key, record in found.items()} == expected
    assert not any(record.error for record in found.values())
    assert {(record.batch_size, record.extra.get("split")) for record in found.values()} == {(2, 4), (1, None)}
    assert [shape for shape in asked if shape[0] == 4] == [(4, 59), (4, 51)], "what failed once is not tried again"


def test_pruning_makes_room_so_limits_are_by_method() -> None:
    model, _ = cramped(4 * 50)  # prompts have 59 columns, 47 after pruning
    found = by_key(answered(BASELINE, STRIDE, benchmark=Toy(size=4), model=model))
    assert found["q0", "baseline"].batch_size < 4
    assert found["q0", "stride"].batch_size == 4
    assert "split" not in found["q0", "stride"].extra


def test_a_sample_that_alone_has_no_memory_is_an_error_of_its_own() -> None:
    model, _ = cramped(10)
    found = by_key(answered(BASELINE, benchmark=Toy(size=3), model=model))
    assert all("out of memory" in str(record.error) for record in found.values())
    assert len(found) == 3


def test_no_memory_for_the_images_of_a_batch_is_no_fault_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.prompts_of

    def prompts_of(processor: Any, samples: Any, *rest: Any) -> Prompts:
        if len(samples) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you asked for 1 byte")
        return real(processor, samples, *rest)

    monkeypatch.setattr(module, "prompts_of", prompts_of)
    found = by_key(answered(BASELINE, benchmark=Toy(size=5)))
    assert [record.error for record in found.values()] == [None] * 5
    assert {record.batch_size for record in found.values()} == {1, 2}


def test_only_the_sample_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    is_bad = failing(module.answer, lambda prompts: any(sample.sample_id == "q2" for sample in prompts.samples))
    monkeypatch.setattr(module, "answer", is_bad)
    found = by_key(answered())
    assert {key[0] for key, record in found.items() if record.error} == {"q2"}
    assert found["q2", "stride"].error == "RuntimeError: out of memory with 1"


def test_raising_instead_of_recording_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_picture(sample: Sample) -> Sample:
        return dataclasses.replace(sample, images=(lambda: 1,)) if sample.sample_id == "q2" else sample  # type: ignore[arg-type, return-value]

    with pytest.raises(UserError, match="sample 'q2' under baseline: an image function must return"):
        answered(benchmark=Toy(size=3, change=broken_picture), on_error="raise")
    monkeypatch.setattr(module, "answer", failing(module.answer, lambda prompts: True))
    with pytest.raises(RuntimeError, match="out of memory"):
        answered(on_error="raise")


class Generous(Toy):
    """Scores above 1."""

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        return 2.0 if sample.sample_id == "q1" else None


def test_a_benchmark_that_misbehaves_costs_the_sample_not_the_run() -> None:
    def on_parse(output: str, sample: Sample) -> None:
        if sample.sample_id == "q0":
            raise KeyError("no such letter")

    records = by_key(answered(BASELINE, benchmark=Generous(size=3, on_parse=on_parse)))
    assert records["q0", "baseline"].error == "KeyError: 'no such letter'"
    assert "got 2.0" in str(records["q1", "baseline"].error)
    assert records["q1", "baseline"].output
    assert (records["q2", "baseline"].error, records["q2", "baseline"].score) == (None, None)


def test_a_batch_begun_is_run_whole_and_a_failed_sample_alone() -> None:
    model, processor = model_and_processor()
    lit = LitEvaluator(model, processor, Toy(), [BASELINE])
    data = SampleDataModule(Toy(size=4).load(), batch_size=4)
    (batch,) = data.test_dataloader()
    lit.done = {("q0", "baseline"): True, ("q1", "baseline"): False}
    lit.test_step(batch, 0)
    assert {record.sample_id: record.batch_size for record in lit.predictions} == {"q1": 4, "q2": 4, "q3": 4}
    lit.predictions.clear()
    lit.done = {**{(f"q{i}", "baseline"): True for i in range(4)}, ("q1", "baseline"): False}
    lit.test_step(batch, 0)
    assert {record.sample_id: record.batch_size for record in lit.predictions} == {"q1": 1}


def test_a_model_that_is_placed_already_is_not_moved() -> None:
    model, processor = model_and_processor()
    model.hf_device_map = {"": "cpu"}
    lit = LitEvaluator(model, processor, Toy(), [BASELINE])
    assert lit.vlm is model
    assert list(lit.parameters()) == []


def test_what_cannot_be_evaluated_is_refused() -> None:
    model, processor = model_and_processor()
    with pytest.raises(UserError, match="at least one method"):
        LitEvaluator(model, processor, Toy(), [])
    with pytest.raises(UserError, match="'stride' came twice"):
        LitEvaluator(model, processor, Toy(), [STRIDE, STRIDE])
    with pytest.raises(UserError, match="record, raise; got 'ignore'"):
        LitEvaluator(model, processor, Toy(), [BASELINE], on_error="ignore")
