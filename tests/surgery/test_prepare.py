"""From samples to labelled prompts: every token's role against the text it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_simignore.surgery.prepare import prepare
from lit_simignore.surgery.spans import ROLE_CODES, Spans
from lit_simignore.types import Role, Sample, Segment, UserError
from tests.tiny_models import CHAT_TEMPLATE, tiny_image, tiny_processor, tiny_sample


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def words_by_role(processor, inputs, spans, row):
    """The words of every role, decoded back from ids."""
    found = {}
    for role, code in ROLE_CODES.items():
        ids = inputs["input_ids"][row][spans.roles[row] == code]
        found[role] = " ".join(processor.tokenizer.convert_ids_to_tokens(ids.tolist()))
    return found


def test_every_token_is_labelled_by_the_segment_it_came_from(processor):
    samples = [tiny_sample("a", "What colour is the cat ?"), tiny_sample("b", "how many dog left in the picture ?")]
    inputs, spans = prepare(processor, samples)
    for row, question in enumerate(("What colour is the cat ?", "how many dog left in the picture ?")):
        words = words_by_role(processor, inputs, spans, row)
        assert words[Role.CONTEXT] == "Context : context is given here ."
        assert words[Role.QUESTION] == f"Question : {question}"
        assert words[Role.OPTIONS] == "Options : ( A ) red ( B ) blue"
        assert words[Role.TEMPLATE] == "<s> USER: Answer with the letter ASSISTANT:"
        assert words[Role.ANSWER] == ""


def test_padding_and_visual_tokens_have_no_role_and_padding_is_on_the_left(processor):
    inputs, spans = prepare(
        processor, [tiny_sample("a", "cat ?"), tiny_sample("b", "What shape is the bird of the dog ?")]
    )
    pad = inputs["attention_mask"] == 0
    assert pad[0].any() and not pad[:, -1].any() and bool((pad[0].int().diff() <= 0).all())
    assert bool((spans.roles[pad] == -1).all())
    assert bool((spans.roles[inputs["input_ids"] == 4] == -1).all())
    assert torch.equal(spans.input_ids, inputs["input_ids"]) and spans.keys == ("a", "b")


def test_prompt_scope_is_context_question_and_options(processor):
    _, spans = prepare(processor, [tiny_sample("a", "cat ?")])
    parts = [spans.roles == ROLE_CODES[role] for role in (Role.CONTEXT, Role.QUESTION, Role.OPTIONS)]
    assert torch.equal(spans.tokens("prompt"), parts[0] | parts[1] | parts[2])
    assert torch.equal(spans.tokens("options"), parts[2]) and torch.equal(spans.tokens("question"), parts[1])
    with pytest.raises(UserError, match="did you mean 'options'"):
        spans.tokens("option")


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_offsets_stay_right_however_many_images_come_first(processor, num_images):
    inputs, spans = prepare(processor, [tiny_sample("a", "What colour is the cat ?", num_images=num_images)])
    assert int((inputs["input_ids"] == 4).sum()) == 16 * num_images
    assert words_by_role(processor, inputs, spans, 0)[Role.QUESTION] == "Question : What colour is the cat ?"
    assert ("pixel_values" in inputs) == (num_images > 0)


def test_a_word_at_the_seam_of_two_segments_belongs_to_where_it_ends(processor):
    sample = Sample("a", (Segment("red gre", Role.CONTEXT), Segment("en blue", Role.QUESTION)))
    inputs, spans = prepare(processor, [sample])
    words = words_by_role(processor, inputs, spans, 0)
    assert words[Role.CONTEXT] == "red" and words[Role.QUESTION] == "green blue"


def test_text_that_the_template_also_contains_is_found_in_its_own_place(processor):
    sample = Sample("a", (Segment("USER:", Role.QUESTION),))
    inputs, spans = prepare(processor, [sample])
    assert int((spans.roles == ROLE_CODES[Role.QUESTION]).sum()) == 1
    assert int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("USER:")).sum()) == 2


def test_a_template_that_strips_the_text_is_followed(processor):
    stripping = tiny_processor(CHAT_TEMPLATE.replace("{{ c.text }}", "{{ c.text | trim }}"))
    sample = Sample("a", (Segment("  red ", Role.CONTEXT), Segment("green  ", Role.QUESTION)), (tiny_image(),))
    inputs, spans = prepare(stripping, [sample])
    words = words_by_role(stripping, inputs, spans, 0)
    assert words[Role.CONTEXT] == "red" and words[Role.QUESTION] == "green"


def test_a_template_that_changes_the_text_is_refused(processor):
    shouting = tiny_processor(CHAT_TEMPLATE.replace("{{ c.text }}", "{{ c.text | upper }}"))
    with pytest.raises(UserError, match="sample 'a': the chat template changes the text"):
        prepare(shouting, [Sample("a", (Segment("red green", Role.QUESTION),))])


def test_a_template_without_room_for_images_is_refused():
    blind = tiny_processor("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}")
    with pytest.raises(UserError, match="sample 'a' has 1 images; the chat template made room for 0"):
        prepare(blind, [tiny_sample("a", "cat ?")])


def test_a_processor_without_a_chat_template_gets_the_documented_prompt():
    plain = tiny_processor(None)
    sample = Sample("a", (Segment("red green", Role.QUESTION),), (tiny_image(), tiny_image(1)))
    inputs, spans = prepare(plain, [sample])
    expected = plain(
        text=["USER: <image>\n<image>\nred green ASSISTANT:"], images=list(sample.images), return_tensors="pt"
    )
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert words_by_role(plain, inputs, spans, 0)[Role.QUESTION] == "red green"


def test_prompts_equal_those_of_the_processors_own_chat_template(processor):
    sample = tiny_sample("a", "What colour is the cat ?", num_images=2)
    message = [
        {
            "role": "user",
            "content": [
                *({"type": "image", "image": image} for image in sample.images),
                {"type": "text", "text": sample.prompt},
            ],
        }
    ]
    own = processor.apply_chat_template(
        message, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs, _ = prepare(processor, [sample])
    assert torch.equal(inputs["input_ids"], own["input_ids"]) and torch.equal(
        inputs["pixel_values"], own["pixel_values"]
    )


def test_a_template_that_writes_the_begin_token_gets_only_one():
    writing = tiny_processor("<s>" + CHAT_TEMPLATE)
    inputs, spans = prepare(writing, [tiny_sample("a", "cat ?")])
    assert int((inputs["input_ids"] == 1).sum()) == 1
    assert words_by_role(writing, inputs, spans, 0)[Role.QUESTION] == "Question : cat ?"


def test_opened_images_are_used_as_given(processor):
    sample = tiny_sample("a", "cat ?")
    inputs, _ = prepare(processor, [sample])
    other, _ = prepare(processor, [sample], images=[[tiny_image(99)]])
    same, _ = prepare(processor, [sample], images=[list(sample.images)])
    assert torch.equal(inputs["pixel_values"], same["pixel_values"])
    assert not torch.equal(inputs["pixel_values"], other["pixel_values"])


def test_a_wrong_number_of_images_names_the_sample(processor):
    with pytest.raises(UserError, match="sample 'a' has 1 images; got 2"):
        prepare(processor, [tiny_sample("a", "cat ?")], images=[[tiny_image(), tiny_image()]])
    with pytest.raises(UserError, match="images for 1 samples; got 0"):
        prepare(processor, [tiny_sample("a", "cat ?")], images=[])


def test_a_bad_image_names_the_sample(processor):
    broken = replace(tiny_sample("q7", "cat ?"), images=(Path("nowhere.png"),))
    with pytest.raises(UserError, match="sample 'q7': image file not found: nowhere.png"):
        prepare(processor, [broken])


def test_a_prompt_that_is_too_long_names_the_sample_and_both_lengths(processor):
    long = Sample("big", (Segment("red " * 300, Role.QUESTION),))
    with pytest.raises(UserError, match="sample 'big' makes a prompt of 303 tokens; the model takes 256"):
        prepare(processor, [tiny_sample("a", "cat ?"), long])


def test_text_that_contains_the_image_token_is_refused(processor):
    with pytest.raises(UserError, match="sample 'a': its text contains '<image>'"):
        prepare(processor, [Sample("a", (Segment("see <image> here", Role.QUESTION),), (tiny_image(),))])


def test_no_samples_are_refused(processor):
    with pytest.raises(UserError, match="at least one sample"):
        prepare(processor, [])


def test_an_empty_text_is_a_prompt_too(processor):
    inputs, spans = prepare(processor, [Sample("a", (), (tiny_image(),))])
    assert int((inputs["input_ids"] == 4).sum()) == 16 and not spans.tokens("prompt").any()


def test_the_processor_is_left_as_it_was(processor):
    before = processor.tokenizer.padding_side
    prepare(processor, [tiny_sample("a", "cat ?"), tiny_sample("b", "What colour is the cat ?")])
    assert processor.tokenizer.padding_side == before == "right"


def test_inputs_and_spans_go_to_the_device(processor):
    inputs, spans = prepare(processor, [tiny_sample("a", "cat ?")], device="meta")
    assert inputs["input_ids"].device.type == inputs["pixel_values"].device.type == spans.roles.device.type == "meta"


def test_rows_of_spans_can_be_taken(processor):
    _, spans = prepare(processor, [tiny_sample("a", "cat ?"), tiny_sample("b", "dog ?")])
    taken = spans.take([1])
    assert isinstance(taken, Spans) and taken.keys == ("b",) and torch.equal(taken.roles, spans.roles[1:])


def test_a_chat_template_of_llama_style_subwords_keeps_the_labels(processor):
    """Byte-level subwords begin with the space before them; the label follows the word, not the space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["what colour is the red cat, yes or no"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    subwords = LlavaProcessor(
        processor.image_processor,
        tokenizer,
        patch_size=6,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
    sample = Sample(
        "a",
        (
            Segment("é red cat,", Role.CONTEXT),
            Segment(" what colour", Role.QUESTION),
            Segment("\nyes or no", Role.OPTIONS),
        ),
        (tiny_image(),),
    )
    inputs, spans = prepare(subwords, [sample])
    for role, text in ((Role.CONTEXT, "é red cat,"), (Role.QUESTION, " what colour"), (Role.OPTIONS, "\nyes or no")):
        ids = inputs["input_ids"][0][spans.roles[0] == ROLE_CODES[role]]
        assert subwords.tokenizer.decode(ids) == text


def test_images_of_any_mode_and_size_become_the_towers_size(processor):
    sample = Sample("a", (Segment("cat", Role.QUESTION),), (Image.new("LA", (7, 90)),))
    inputs, _ = prepare(processor, [sample])
    assert inputs["pixel_values"].shape == (1, 3, 24, 24)
