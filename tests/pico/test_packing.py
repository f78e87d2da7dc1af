"""Training data of the bundled model: slots give the logits of single prompts; nothing of the test world leaks in."""

import numpy as np
import pytest
import torch

from lit_simignore.pico import packing
from lit_simignore.pico.architecture import build_processor
from lit_simignore.pico.config import PicoConfig
from lit_simignore.pico.losses import packed_mask, patch_word_loss
from lit_simignore.pico.module import PREFIX, LitPico
from lit_simignore.shapes.vocabulary import BOS, IMAGE, TOKEN_ID

CONFIG = PicoConfig(
    batch_size=2, slots=5, text_rows=2, text_steps=1, vision_steps=1, easy_steps=1, steps=6, decay_steps=2
)


@pytest.fixture(scope="module")
def module():
    return LitPico(CONFIG)


def test_the_stream_depends_on_seed_and_step_only():
    first, second = (packing.draw_batch(CONFIG, 5) for _ in range(2))
    assert torch.equal(first.rows.ids, second.rows.ids) and torch.equal(first.pixels, second.pixels)
    assert not torch.equal(first.rows.ids, packing.draw_batch(CONFIG, 4).rows.ids)


def test_every_word_of_every_prompt_is_in_the_vocabulary():
    unknown = TOKEN_ID["<unk>"]
    for step in range(3, 8):
        batch = packing.draw_batch(CONFIG, step)
        assert not (batch.rows.ids == unknown).any() and not (batch.text.ids == unknown).any()


def test_packed_slots_give_the_hidden_states_of_single_prompts(module):
    batch = packing.draw_batch(CONFIG, 5)
    model = module.model
    with torch.no_grad():
        _, patches = module._encode_image(batch.pixels)
        packed = module._read_rows(batch.rows, patches)
        checked = 0
        for row in range(len(batch.rows.ids)):
            for number in batch.rows.segments[row].unique().tolist():
                if number < 0:
                    continue
                here = batch.rows.segments[row] == number
                ids = torch.cat([torch.tensor([BOS, TOKEN_ID["USER:"], *[IMAGE] * 144]), batch.rows.ids[row][here]])[
                    None
                ]
                image = batch.pixels[row // CONFIG.slots][None]
                pixels = ((image.float() / 255 - module.mean) / module.std).permute(0, 3, 1, 2)
                alone = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
                torch.testing.assert_close(packed[row][here], alone[0, PREFIX:], atol=2e-4, rtol=1e-4)
                checked += 1
        assert checked > 8


def test_the_tokenizer_of_the_export_sees_the_ids_that_were_trained_on():
    processor = build_processor()
    text = "What color is the circle? ASSISTANT:"
    assert tuple(processor.tokenizer(text)["input_ids"][1:]) == packing.encode(text)


def test_a_question_that_fits_no_slot_is_left_out_whole():
    asked = ("Is there a red circle in the image?", "yes")
    rows = packing.pack([[(asked, "existence")] * 9], slots=2, length=32)
    assert rows.ids.shape == (2, 32)
    assert int((rows.segments >= 0).sum()) == 4 * len(packing.encode(asked[0] + " ASSISTANT: yes")) + 4


def test_the_mask_lets_a_question_see_the_prefix_and_itself_only():
    segments = torch.tensor([[0, 0, 1, -1]])
    seen = packed_mask(segments, prefix=2)[0, 0] == 0
    expected = torch.tensor(
        [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(seen, expected)


def test_the_patch_word_loss_agrees_with_a_naive_loop():
    torch.manual_seed(0)
    patches, words = torch.randn(2, 3, 8), torch.randn(10, 8)
    colors, shapes = torch.tensor([[0, -1, 1], [-1, -1, 0]]), torch.tensor([[1, -1, 0], [-1, -1, 1]])
    color_words, shape_words, background = torch.tensor([2, 3]), torch.tensor([4, 5]), 9
    named, empty = [], []
    for b in range(2):
        for i in range(3):
            cosine = [float(torch.cosine_similarity(patches[b, i], w, dim=0)) for w in words]
            log_probs = np.log(np.exp(12 * np.array(cosine)) / np.exp(12 * np.array(cosine)).sum())
            if colors[b, i] < 0:
                empty.append(-log_probs[background])
            else:
                named.append(-0.5 * (log_probs[color_words[colors[b, i]]] + log_probs[shape_words[shapes[b, i]]]))
    expected = 0.7 * np.mean(named) + 0.3 * np.mean(empty)
    got = patch_word_loss(patches, words, color_words, shape_words, background, colors, shapes)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_training_draws_no_scene_of_the_test_world(monkeypatch):
    drawn = []
    original = packing.draw_scene
    monkeypatch.setattr(packing, "draw_scene", lambda *a: drawn.append(original(*a)) or drawn[-1])
    for step in range(2, 8):
        packing.draw_batch(CONFIG, step)
    assert drawn and all(scene.bucket != 0 for scene in drawn)
