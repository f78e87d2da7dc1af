"""The training step: losses and gradients of pruned prompts, what is trained, and what does not leak."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_simignore.data.conversations_batch import ConversationCollator
from lit_simignore.data.conversations_module import StepPlan
from lit_simignore.engine.finetune_schedule import PruneSchedule, cosine_factor
from lit_simignore.engine.finetune_tuning import Tuning, prepare_tuning, trained
from lit_simignore.engine.finetuner import answer_loss
from lit_simignore.interventions.eah import EAH
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.load import load
from lit_simignore.tracking import build_logger
from lit_simignore.types import UserError
from tests.engine.finetuning import conversations, data, far, fit, module, weights
from tests.family_reference import forward_positions
from tests.masked_reference import distance, visible_mask
from tests.tiny_checkpoints import save_tiny_checkpoint
from tests.tiny_families import FamilyBatch, tiny_family
from tests.tiny_models import tiny_llava, tiny_processor


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def own_hooks(model: torch.nn.Module) -> list[str]:
    """Hooks of this package; transformers and PEFT have some of their own."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks = [hook for part in model.modules() for kind in kinds for hook in getattr(part, kind).values()]
    named = [getattr(hook, "__module__", "") or "" for hook in hooks]
    return [name for name in named if name.startswith("lit_simignore")]


def equal_to_masked(model, batch, pruner, checkpointing: bool, positions=None) -> None:
    """Loss and every gradient against Hugging Face's own loss on the whole prompt with dropped tokens hidden."""
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    with attach(model, pruner, spans=batch.spans) as trace:
        total, count = answer_loss(model, batch)
        loss = total / count
        got = gradients(model, loss)
    model.gradient_checkpointing_disable()
    dropped = [number - len(kept) for number, kept in zip(trace.num_visual, trace.kept, strict=True)]
    assert min(dropped) > 0
    if positions is None:
        positions = torch.arange(batch.labels.shape[1])[None].expand(len(batch), -1)
    masked = {**batch.inputs, "attention_mask": visible_mask(batch.inputs, trace.kept), "position_ids": positions}
    reference = model(**masked, labels=batch.labels, use_cache=False).loss
    expected = gradients(model, reference)
    assert abs(float(loss.detach() - reference.detach())) < 1e-5 * max(1.0, float(reference.detach()))
    # A parameter that only one side uses has a gradient of zero on the other.
    for name in got.keys() ^ expected.keys():
        assert float((got | expected)[name].abs().max()) == 0
    common = got.keys() & expected.keys()
    largest = max(float(expected[name].abs().max()) for name in common)
    assert max(distance(got[name], expected[name]) for name in common) < 1e-5 * max(1.0, largest)
    assert any("vision" in name or "visual" in name for name in common)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_equal_the_masked_model(side: str, checkpointing: bool) -> None:
    batch = ConversationCollator(tiny_processor(), side)(conversations(3))
    equal_to_masked(tiny_llava(), batch, Simignore(keep_ratio=0.3), checkpointing)


FAMILIES = ("llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "mistral3")


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_equal_the_masked_model_in_every_family(name, side, checkpointing, tmp_path) -> None:
    _, processor = load(save_tiny_checkpoint(name, tmp_path))
    model = tiny_family(name)
    batch = ConversationCollator(processor, side)(conversations(3))
    whole = FamilyBatch({**batch.inputs}, [], [])
    positions = forward_positions(model, whole)
    equal_to_masked(model, batch, Simignore(keep_ratio=0.3), checkpointing, positions)


@pytest.mark.parametrize("pruner", [Simignore(keep_ratio=0.3), FastV(layer_idx=2, keep_ratio=0.3)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_answer_chooses_visual_tokens(pruner, side: str) -> None:
    """Whatever the answer, the same tokens stay: neither text nor last query may come from it."""
    model, collate = tiny_llava(), ConversationCollator(tiny_processor(), side)
    kept = []
    for answer in ("A", "cat dog bird"):
        talks = [
            dataclasses.replace(
                talk,
                turns=(talk.turns[0], dataclasses.replace(
                    talk.turns[1], parts=(dataclasses.replace(talk.turns[1].parts[0], text=answer),))),
            )
            for talk in conversations(3)
        ]  # fmt: skip
        batch = collate(talks)
        with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
            answer_loss(model, batch)
        kept.append(trace.kept)
    assert all(torch.equal(first, second) for first, second in zip(*kept, strict=True))


def test_only_answers_have_logits_and_the_loss_is_hugging_face_s() -> None:
    model, batch = tiny_llava(), ConversationCollator(tiny_processor())(conversations(3))
    shapes = []
    model.lm_head.register_forward_hook(lambda _, args, output: shapes.append(output.shape))
    with torch.no_grad():
        total, count = answer_loss(model, batch)
        whole = model(**batch.inputs, labels=batch.labels).loss
    assert abs(float(total / count - whole)) < 1e-6 and int(count) == 6
    assert shapes[0][1] == 2 < shapes[1][1]


# -- what is trained


def test_lora_trains_adapters_of_the_decoder_only() -> None:
    lit = module()
    losses = fit(lit, data(8), 6)
    names = set(weights(lit))
    assert names and all("lora_" in name and "language_model.layers" in name for name in names)
    assert losses[-1] < losses[0] - 0.5
    assert not own_hooks(lit.vlm) and lit._attached is None


def test_projector_and_full_train_what_they_say() -> None:
    model = prepare_tuning(tiny_llava(), Tuning(kind="projector"))
    assert trained(model) and all("multi_modal_projector" in name for name in trained(model))
    names = set(trained(prepare_tuning(tiny_llava(), Tuning(kind="full"))))
    assert "lm_head.weight" in names and any("multi_modal_projector" in name for name in names)
    assert not any("vision_tower" in name for name in names)
    assert any("vision" in n for n in trained(prepare_tuning(tiny_llava(), Tuning(kind="full", vision=True))))
    both = trained(prepare_tuning(tiny_llava(), Tuning(projector=True)))
    assert {name.split(".")[-2] for name in both if "lora" not in name} == {"linear_1", "linear_2"}.union(
        {name.split(".")[-2] for name in both if "lora" not in name}
    )


@pytest.mark.parametrize("name", [*FAMILIES, "smolvlm", "gemma3", "paligemma"])
def test_every_family_has_a_decoder_to_adapt_and_a_projector(name: str) -> None:
    adapted = trained(prepare_tuning(tiny_family(name), Tuning()))
    assert adapted and not any("vision" in key or "visual" in key for key in adapted)
    assert trained(prepare_tuning(tiny_family(name), Tuning(kind="projector")))


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UserError, match="no layer of the decoder is called nothing"):
        prepare_tuning(tiny_llava(), Tuning(targets=("nothing",)))
    quantized = tiny_llava()
    quantized.is_quantized = True
    with pytest.raises(UserError, match="quantized weights cannot be trained"):
        prepare_tuning(quantized, Tuning(kind="full"))
    with pytest.raises(UserError, match="tuning must be one of"):
        Tuning(kind="everything")


@pytest.mark.parametrize("tuning", [Tuning(projector=True), Tuning(kind="projector"), Tuning(kind="full")])
def test_what_is_trained_of_a_bfloat16_checkpoint_is_float32(tuning: Tuning) -> None:
    """A step of 1e-5 is lost in most bfloat16 weights."""
    lit = module(tuning=tuning, lr=1e-5)
    lit._given[0].to(torch.bfloat16)
    before = {name: value.clone() for name, value in lit._given[0].named_parameters() if "projector" in name}
    (first, *_) = fit(lit, data(4), 2, precision="bf16-mixed")
    (expected, *_) = fit(module(tuning=tuning, lr=1e-5), data(4), 2)
    assert first == pytest.approx(expected, abs=0.1)
    assert {value.dtype for value in weights(lit).values()} == {torch.float32}
    assert {value.dtype for value in lit.parameters() if not value.requires_grad} == {torch.bfloat16}
    after = {name: value for name, value in weights(lit).items() if "projector" in name}
    assert len(after) == len(before) == 4
    for old, new in zip(before.values(), after.values(), strict=True):
        assert float((old.float() != new).float().mean()) > 0.9


def test_training_that_would_round_every_step_is_refused() -> None:
    lit = module(tuning=Tuning(kind="projector"))
    lit._given[0].to(torch.bfloat16)
    with pytest.raises(UserError, match="loaded in bfloat16, .* use trainer.precision=bf16-mixed"):
        fit(lit, data(4), 1)


# -- steps and schedules


def test_the_loss_of_a_step_does_not_depend_on_how_it_is_cut_up() -> None:
    whole, parts = (module(tuning=Tuning(kind="full"), lr=1e-3) for _ in range(2))
    one = fit(whole, data(4, lengths=True), 3)
    two = fit(parts, data(4, 1, lengths=True), 3, accumulate_grad_batches=4)
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    assert far(weights(whole), weights(parts)) < 1e-4


@pytest.mark.parametrize("micro", [4, 1])
def test_gradients_are_those_of_the_mean_over_answer_tokens(micro: int) -> None:
    """Adam hides a wrong scale; what it was given does not."""
    lit, source = module(tuning=Tuning(kind="projector")), data(4, micro, lengths=True)
    fit(lit, source, 1, accumulate_grad_batches=4 // micro)
    got = {name: value.grad for name, value in lit.vlm.named_parameters() if value.requires_grad}
    model = tiny_llava()
    prepare_tuning(model, Tuning(kind="projector"))
    batch = source.collator([source.conversations[i] for i in next(StepPlan(8, 4, 4).micro_batches(0, 0, 1))])
    with attach(model, *lit.parts, spans=batch.spans):
        expected = gradients(model, model(**batch.inputs, labels=batch.labels, use_cache=False).loss)
    assert len({int((row != -100).sum()) for row in batch.labels}) > 1
    assert max(distance(got[name], expected[name]) for name in expected) < 1e-5


def test_dropout_is_drawn_by_the_step_and_the_seed() -> None:
    tuning = Tuning(dropout=0.5)
    assert fit(module(tuning=tuning), data()) == fit(module(tuning=tuning), data())
    assert fit(module(tuning=tuning, seed=1), data()) != fit(module(tuning=tuning), data())


def test_an_annealed_schedule_falls_to_its_target() -> None:
    schedule, parts = PruneSchedule(kind="annealed", steps=4), (Simignore(keep_ratio=0.2),)
    ratios = [schedule.parts_at(parts, step, 10)[0].keep_ratio for step in range(6)]
    assert ratios == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert PruneSchedule(kind="annealed").parts_at(parts, 5, 10)[0].keep_ratio == pytest.approx(0.2)
    lit = module(schedule=schedule)
    kept = []

    class Kept(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            kept.append(float(trainer.callback_metrics["train/visual_tokens"]))

    fit(lit, data(), 6, callbacks=[Kept()])
    assert kept[0] == 16 and kept[-1] == round(16 * 0.25) and kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_intervention_trains_beside_a_pruner_that_is_annealed(checkpointing: bool) -> None:
    schedule, eah = PruneSchedule(kind="annealed", steps=2), EAH(layer_idx=1)
    assert schedule.parts_at((Simignore(keep_ratio=0.2), eah), 2, 10)[1] is eah
    tuning = Tuning(gradient_checkpointing=checkpointing)
    lit = module(Simignore(keep_ratio=0.25), eah, schedule=schedule, tuning=tuning)
    losses = fit(lit, data(), 3)
    assert len(losses) == 3 and not own_hooks(lit.vlm)


@pytest.mark.parametrize("part", [Simignore(num_keep=4), RandomTokens(num_keep=4), EAH(layer_idx=1)])
def test_a_count_cannot_be_annealed(part) -> None:
    with pytest.raises(UserError, match="needs (keep_ratio|something to anneal)"):
        module(part, schedule=PruneSchedule(kind="annealed"))


def test_loss_learning_rate_and_keep_ratio_of_every_step_are_in_the_csv(tmp_path: Path) -> None:
    losses = fit(module(lr=0.01), data(4), 3, logger=build_logger("csv", tmp_path), log_every_n_steps=1)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["train/loss"] for row in rows] == pytest.approx(losses)
    rates = [0.01 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    assert [row["train/lr"] for row in rows] == pytest.approx(rates)
    assert [row["train/keep_ratio"] for row in rows] == [0.25] * 3


def test_the_learning_rate_rises_and_falls_as_a_cosine() -> None:
    rates = [cosine_factor(step, 10, 2) for step in range(11)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0]) and rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0) and cosine_factor(10, 10, 2, 0.1) == pytest.approx(0.1)


def test_a_failure_leaves_no_hook() -> None:
    lit = module()

    class Boom(L.Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit(lit, data(), callbacks=[Boom()])
    assert not own_hooks(lit.vlm) and lit._attached is None


def test_a_batch_without_pictures_trains_too() -> None:
    from lit_simignore.data.conversations_module import ConversationDataModule

    talks = conversations(4, num_images=0)
    source = ConversationDataModule(talks, ConversationCollator(tiny_processor()), 4)
    assert len(fit(module(tuning=Tuning(kind="full")), source, 2)) == 2


def test_the_configuration_says_what_the_engine_takes() -> None:
    """Two dataclasses, for the configuration loads no torch: they must not drift apart."""
    from lit_simignore.config.schema import ScheduleConfig, TuningConfig
    from lit_simignore.config.typed import plain

    wish = plain(TuningConfig())
    assert {**wish, "targets": tuple(wish["targets"])} == dataclasses.asdict(Tuning())
    assert plain(ScheduleConfig()) == dataclasses.asdict(PruneSchedule())
