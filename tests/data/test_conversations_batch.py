"""Batches of conversations: labels on answers only, and prompts as evaluation writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_simignore.data.conversations import ASSISTANT, USER, Conversation, Turn, conversation_of
from lit_simignore.data.conversations_batch import ConversationCollator
from lit_simignore.data.conversations_module import ConversationDataModule, StepPlan
from lit_simignore.data.conversations_shapes import ShapesConversations
from lit_simignore.data.conversations_text import write_conversation
from lit_simignore.surgery.load import load
from lit_simignore.surgery.prepare import prepare
from lit_simignore.surgery.spans import ROLE_CODES
from lit_simignore.types import Role, Sample, Segment, UserError
from tests.tiny_checkpoints import PROCESSORS, save_tiny_checkpoint
from tests.tiny_models import QUESTIONS, tiny_image, tiny_processor, tiny_sample

SAMPLES = [tiny_sample(f"s{i}", question, num_images=1 + i % 2) for i, question in enumerate(QUESTIONS)]
FAMILIES = [name for name in PROCESSORS if name != "instructblip"]


def rows(values: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(values, mask, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_is_the_one_of_evaluation_and_the_answer_follows(side: str) -> None:
    processor = tiny_processor()
    inputs, spans = prepare(processor, SAMPLES)
    batch = ConversationCollator(processor, side)([conversation_of(sample) for sample in SAMPLES])
    mask = batch.inputs["attention_mask"]
    assert mask.ndim == 2 and torch.equal(batch.inputs["pixel_values"], inputs["pixel_values"])
    asked = rows(inputs["input_ids"], inputs["attention_mask"])
    for whole, labels, roles, prompt, old in zip(
        rows(batch.inputs["input_ids"], mask),
        rows(batch.labels, mask),
        rows(batch.spans.roles, mask),
        asked,
        rows(spans.roles, inputs["attention_mask"]),
        strict=True,
    ):
        answer = processor.tokenizer.convert_tokens_to_ids(["A", "</s>"])
        assert whole == prompt + answer
        assert labels == [-100] * len(prompt) + answer
        assert roles == old + [ROLE_CODES[Role.ANSWER]] * 2


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_prompt_is_the_one_of_evaluation(name: str, tmp_path: Path) -> None:
    _, processor = load(save_tiny_checkpoint(name, tmp_path))
    samples = [sample for sample in SAMPLES if len(sample.images) == 1]
    inputs, spans = prepare(processor, samples)
    batch = ConversationCollator(processor)([conversation_of(sample) for sample in samples])
    mask = batch.inputs["attention_mask"]
    found = zip(rows(batch.inputs["input_ids"], mask), rows(batch.labels, mask), strict=True)
    for (whole, labels), prompt in zip(found, rows(inputs["input_ids"], inputs["attention_mask"]), strict=True):
        assert whole[: len(prompt)] == prompt and labels[: len(prompt)] == [-100] * len(prompt)
        assert labels[len(prompt) :] == whole[len(prompt) :] and len(whole) == len(prompt) + 2


def test_several_answers_are_all_labelled_and_each_is_ended() -> None:
    processor = tiny_processor()
    said = [Segment("red", Role.ANSWER)], [Segment("cat", Role.ANSWER)]
    asked = Turn(USER, (None, Segment("What colour ?", Role.QUESTION)))
    later = Turn(USER, (Segment("What animal ?", Role.TEMPLATE),))
    turns = (asked, Turn(ASSISTANT, tuple(said[0])), later, Turn(ASSISTANT, tuple(said[1])))
    talk = Conversation("c", turns, (tiny_image(),))
    batch = ConversationCollator(processor)([talk])
    assert processor.decode(batch.labels[0][batch.labels[0] >= 0]).split() == ["red", "</s>", "cat", "</s>"]
    question = batch.spans.roles[0] == ROLE_CODES[Role.QUESTION]
    assert processor.decode(batch.inputs["input_ids"][0][question]).split() == ["What", "colour", "?"]


def test_a_template_that_ends_no_answer_gets_the_end_token() -> None:
    """LLaVA-1.5's own template writes a blank behind an answer; nothing would teach the model to stop."""
    template = (
        "{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content %}"
        "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    written = write_conversation(tiny_processor(template), conversation_of(SAMPLES[0]))
    assert written.text.endswith("ASSISTANT: A</s>")
    start, end, role = written.spans[-1]
    assert (written.text[start:end], role) == (" A</s>", Role.ANSWER)


def test_without_a_template_the_fallback_of_evaluation_is_used() -> None:
    processor = tiny_processor(None)
    inputs, _ = prepare(processor, SAMPLES[:1])
    batch = ConversationCollator(processor)([conversation_of(SAMPLES[0])])
    assert batch.inputs["input_ids"][0].tolist() == [*inputs["input_ids"][0].tolist(), *batch.labels[0][-2:].tolist()]


def test_what_a_processor_cannot_take_is_refused_by_name(tmp_path: Path) -> None:
    processor = tiny_processor()
    collate = ConversationCollator(processor)
    with pytest.raises(UserError, match="conversation 'q': its text contains '<image>'"):
        collate([conversation_of(Sample("q", (Segment("a <image>", Role.QUESTION),), answer="x"))])
    with pytest.raises(UserError, match="sample 'q' has no answer"):
        conversation_of(Sample("q", (Segment("a", Role.QUESTION),)))
    with pytest.raises(UserError, match="conversation 's0': makes .* tokens; the limit is 7"):
        ConversationCollator(processor, max_tokens=7)([conversation_of(SAMPLES[0])])
    gone = Sample("q", (Segment("a", Role.QUESTION),), (tmp_path / "gone.png",), answer="x")
    with pytest.raises(UserError, match="conversation 'q': image file not found"):
        collate([conversation_of(gone)])
    with pytest.raises(UserError, match="padding_side must be one of"):
        ConversationCollator(processor, "middle")
    _, blip = load(save_tiny_checkpoint("instructblip", tmp_path))
    with pytest.raises(UserError, match="Q-Former"):
        ConversationCollator(blip)([conversation_of(SAMPLES[0])])


def test_training_scenes_do_not_depend_on_their_number_and_are_none_of_the_test_world() -> None:
    few, many = ShapesConversations(7), ShapesConversations(50)
    assert [few[i].turns for i in range(7)] == [many[i].turns for i in range(7)]
    assert {turn.text for turn in (many[5].turns[1],)} <= {"yes", "no"}
    kinds = {conversation.turns[0].text.split("Question:")[-1].split()[0] for conversation in many}
    assert {"What", "How", "Are", "Is"} <= kinds
    assert ShapesConversations(1, seed=1)[0].turns != few[0].turns
    with pytest.raises(IndexError):
        few[7]


# -- the order


def test_a_step_has_the_same_conversations_however_it_is_cut_up() -> None:
    plan = StepPlan(total=10, batch_size=8, micro_batch_size=2)

    def steps(world: int, first: int, count: int) -> list[set[int]]:
        streams = [plan.micro_batches(first, rank, world) for rank in range(world)]
        found = []
        for _ in range(count):
            drawn = [place for stream in streams for _ in range(8 // 2 // world) for place in next(stream)]
            assert len(drawn) == 8
            found.append(set(drawn))
        return found

    assert steps(1, 0, 5) == steps(2, 0, 5) == steps(4, 0, 5)
    assert steps(1, 2, 3) == steps(1, 0, 5)[2:]
    stream = plan.micro_batches(0, 0, 1)
    drawn = [place for _ in range(20) for place in next(stream)]
    assert all(sorted(drawn[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))
    assert drawn[:10] != drawn[10:20]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"multiple of micro_batch_size x processes \(2 x 3\)"):
        StepPlan(10, 8, 2).accumulate(3)
    with pytest.raises(UserError, match="at least one conversation"):
        StepPlan(0, 8, 2)


def test_a_data_module_refuses_a_trainer_that_counts_otherwise() -> None:
    from lightning import Trainer

    data = ConversationDataModule([conversation_of(SAMPLES[0])], ConversationCollator(tiny_processor()), 4, 2)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    data.trainer = Trainer(**quiet, max_steps=1)
    with pytest.raises(UserError, match="pass accumulate_grad_batches=2"):
        data.setup("fit")
    data.trainer = Trainer(**quiet, accumulate_grad_batches=2, max_epochs=3)
    with pytest.raises(UserError, match="pass max_steps"):
        data.setup("fit")
