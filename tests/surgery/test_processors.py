"""Processors of every family, loaded from a folder without torchvision, through ``prepare`` into the model."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import AutoConfig, AutoModelForImageTextToText

from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery import processors as ours
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.prepare import prepare
from lit_simignore.surgery.spans import ROLE_CODES, Spans
from lit_simignore.types import Role, Sample, UserError
from tests.tiny_checkpoints import PROCESSORS, SIDE, save_tiny_checkpoint
from tests.tiny_families import ONE_IMAGE_EACH
from tests.tiny_models import QUESTIONS, tiny_image, tiny_sample

NAMES = sorted(PROCESSORS)
SIZES = ((40, 52), (52, 30), (24, 24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def get(name: str) -> str:
        if name not in made:
            made[name] = str(save_tiny_checkpoint(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return get


def load_processor(source: str) -> Any:
    config = AutoConfig.from_pretrained(source)
    family = family_of(config)
    processor = family.load_processor(source, trust_remote_code=False, revision=None)
    family.complete_processor(processor, config)
    return processor


def samples_of(name: str) -> list[Sample]:
    """Two images of other sizes, one, none; where a family wants exactly one image, one each."""
    counts = (1, 1, 1) if name in ONE_IMAGE_EACH else (2, 1, 0)
    samples = [tiny_sample(f"s{row}", QUESTIONS[row % 2], num_images=count) for row, count in enumerate(counts)]
    pictures = [tiny_image(seed, size) for seed, size in enumerate(SIZES)]
    return [
        dataclasses.replace(sample, images=tuple(pictures[row : row + count]))
        for row, (sample, count) in enumerate(zip(samples, counts, strict=True))
    ]


def words_of(processor: Any, spans: Spans, row: int, role: Role) -> str:
    return processor.tokenizer.decode(spans.input_ids[row][spans.roles[row] == ROLE_CODES[role]])


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_is_prepared_labelled_and_generated_from(folder, name):
    processor, samples = load_processor(folder(name)), samples_of(name)
    model = AutoModelForImageTextToText.from_pretrained(folder(name), dtype=torch.float32).eval()
    inputs, spans = prepare(processor, samples)
    for row, sample in enumerate(samples):
        for role in (Role.CONTEXT, Role.QUESTION, Role.OPTIONS):
            expected = next(segment.text for segment in sample.segments if segment.role is role)
            assert words_of(processor, spans, row, role).split() == expected.split()
    with torch.no_grad():
        plain = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        with attach(model, Simignore(keep_ratio=0.5), spans=spans) as trace:
            pruned = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(plain[:, :-3], pruned[:, :-3])
    assert [bool(total) for total in trace.num_visual] == [bool(sample.images) for sample in samples]
    assert [len(kept) for kept in trace.kept] == [round(total / 2) for total in trace.num_visual]


@pytest.mark.parametrize("name", sorted(set(NAMES) - ONE_IMAGE_EACH))
def test_a_batch_without_any_image_is_prepared_too(folder, name):
    samples = [dataclasses.replace(sample, images=()) for sample in samples_of(name)]
    inputs, spans = prepare(load_processor(folder(name)), samples)
    assert "pixel_values" not in inputs
    assert spans.tokens("question").any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_files_name_the_class_of_transformers(folder, name):
    loaded = load_processor(folder(name))
    with open(f"{folder(name)}/processor_config.json") as file:
        saved = json.load(file)["processor_class"]
    assert type(loaded).__name__ == saved
    assert not saved.startswith(("ImagesOnly", "Grouped", "Templated"))
    assert not hasattr(loaded, "video_processor")


@pytest.mark.parametrize("name", NAMES)
def test_a_processor_goes_to_another_process(folder, name):
    loaded = load_processor(folder(name))
    there = pickle.loads(pickle.dumps(loaded))
    first, second = (prepare(processor, samples_of(name))[0] for processor in (loaded, there))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


# -- stand-ins against transformers' own, where these run


def test_instructblip_reads_as_transformers_does_where_nothing_is_padded(folder):
    processor = load_processor(folder("instructblip"))
    theirs = hf.InstructBlipProcessor.from_pretrained(folder("instructblip"))
    theirs.image_token = hf.AddedToken("<image>")  # their class reads .content, which a loaded tokenizer's has not
    sample = samples_of("instructblip")[0]
    inputs, _ = prepare(processor, [sample])
    expected = theirs(images=list(sample.images), text=[sample.prompt], return_tensors="pt")
    for key in ("input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask", "pixel_values"):
        assert torch.equal(inputs[key], expected[key]), key


@pytest.mark.parametrize("count", [0, 2])
def test_instructblip_refuses_other_than_one_image_in_one_line(folder, count):
    processor = load_processor(folder("instructblip"))
    samples = samples_of("instructblip")
    odd = dataclasses.replace(samples[0], images=(tiny_image(),) * count)
    for batch in ([samples[1], odd], [odd]):
        with pytest.raises(UserError, match="exactly one image per sample"):
            prepare(processor, batch)


def test_instructblip_takes_texts_without_image_token_as_transformers_does(folder):
    processor = load_processor(folder("instructblip"))
    marked, bare = (
        processor(images=[tiny_image()], text=[text], return_tensors="pt") for text in ("<image>a cat", "a cat")
    )
    assert torch.equal(marked["input_ids"], bare["input_ids"])


def test_paligemma_reads_as_transformers_does(folder):
    processor = load_processor(folder("paligemma"))
    theirs = hf.PaliGemmaProcessor.from_pretrained(folder("paligemma"))
    sample = samples_of("paligemma")[1]
    inputs, _ = prepare(processor, [sample])
    expected = theirs(images=list(sample.images), text=["<image>" + sample.prompt], return_tensors="pt")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    bare = processor(images=list(sample.images), text=["<image>" + sample.prompt], return_tensors="pt")
    assert torch.equal(bare["input_ids"], expected["input_ids"])


def test_a_template_of_one_message_refuses_further_ones(folder):
    processor = load_processor(folder("paligemma"))
    turns = [{"role": role, "content": [{"type": "text", "text": "red"}]} for role in ("user", "assistant")]
    with pytest.raises(Exception, match="one user message"):
        processor.apply_chat_template(turns)


def test_paligemma_labels_only_what_is_to_be_learned(folder):
    processor = load_processor(folder("paligemma"))
    asked = processor(images=[tiny_image()], text=["<image> red"], return_tensors="pt")
    taught = processor(images=[tiny_image()], text=["<image> red"], suffix=["blue"], return_tensors="pt")
    assert "labels" not in asked
    assert bool((taught["labels"] != -100).any())


def test_onevision_cuts_an_image_into_tiles_only_where_it_is_alone(folder):
    inputs, _ = prepare(load_processor(folder("llava_onevision")), samples_of("llava_onevision"))
    counts = (inputs["input_ids"] == 4).sum(1).tolist()
    assert counts[0] == 2 * (16 + 1)
    assert counts[1] > 16 + 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: hf.Idefics3ImageProcessorPil(
            do_image_splitting=True, size={"longest_edge": 48}, max_image_size={"longest_edge": 24}
        ),
        lambda: hf.GotOcr2ImageProcessorPil(size=SIDE, min_patches=2, max_patches=4),
    ],
    ids=["idefics3", "internvl"],
)
def test_an_image_that_was_cut_into_tiles_has_no_grid(folder, request, build):
    name = request.node.callspec.id
    processor = load_processor(folder(name))
    processor.image_processor = build()
    model = AutoModelForImageTextToText.from_pretrained(folder(name), dtype=torch.float32).eval()
    inputs, spans = prepare(processor, samples_of(name)[1:])
    with torch.no_grad(), attach(model, Simignore(num_keep=3), spans=spans) as trace:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert trace.num_visual[0] > 4
    assert trace.grids == [(), ()]


def test_pixtral_stand_in_writes_row_ends_as_documented():
    processor = PROCESSORS["mistral3"]()
    text = processor.replace_image_token({"image_sizes": [(16, 24)]}, 0)
    assert isinstance(processor, ours.ImagesOnlyPixtral)
    assert text == "[IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG_END]"
