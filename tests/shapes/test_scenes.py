"""The generated world: determinism, disjoint worlds, and patch owners against a pixel count."""

import numpy as np
import pytest

from lit_simignore.shapes import scenes
from lit_simignore.shapes.vocabulary import NUM_PAIRS, TOKEN_ID, WORDS


def draw(seed: int, world: str = "train", crowd: scenes.Crowd = scenes.EASY) -> scenes.Scene:
    return scenes.draw_scene(np.random.default_rng(seed), world, crowd)


def test_the_vocabulary_has_no_word_twice():
    assert len(WORDS) == len(TOKEN_ID)


def test_train_and_test_scenes_never_share_a_layout():
    def layouts(world):
        drawn = [draw(seed, world) for seed in range(400)]
        return {(tuple(s.rows), tuple(s.columns), tuple(s.pairs)) for s in drawn}

    assert not layouts("train") & layouts("test")


def test_the_world_of_a_scene_follows_from_its_layout_alone():
    for seed in range(50):
        assert draw(seed, "test").bucket == 0
        assert draw(seed, "train").bucket != 0


def test_backgrounds_of_the_two_worlds_differ():
    train = {scenes.background("train", i).tobytes() for i in range(20)}
    assert not train & {scenes.background("test", i).tobytes() for i in range(20)}


def test_the_same_generator_state_draws_the_same_picture():
    first, second = (scenes.render(draw(3), np.random.default_rng(5)) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == (96, 96, 3)
    assert np.array_equal(first, second)


def test_crowded_scenes_hold_more_objects_than_training_shows():
    assert min(len(draw(s, "test", scenes.CROWDED).pairs) for s in range(50)) > scenes.EASY.most


def test_frequencies_are_those_of_drawn_scenes():
    rng = np.random.default_rng(0)
    counts = np.zeros(NUM_PAIRS)
    for _ in range(4000):
        np.add.at(counts, scenes.draw_scene(rng).pairs, 1)
    measured = counts / counts.sum()
    assert np.abs(measured - scenes.frequency()).max() < 0.006
    assert np.corrcoef(measured, scenes.frequency())[0, 1] > 0.97


def _covered_pixels(scene: scenes.Scene, index: int) -> np.ndarray:
    """Alpha of one object, found by rendering it alone onto black and onto white."""
    alpha = np.zeros((96, 96))
    top = int(np.clip(scene.rows[index] * 24 + scene.jitter[index, 0], 0, 72))
    left = int(np.clip(scene.columns[index] * 24 + scene.jitter[index, 1], 0, 72))
    alpha[top : top + 24, left : left + 24] = scenes.sprite(
        int(scene.shapes[index]), int(scene.sizes[index]), int(scene.angles[index])
    )
    return alpha


@pytest.mark.parametrize("seed", range(12))
def test_patch_owners_agree_with_counting_pixels_patch_by_patch(seed):
    scene = draw(seed, crowd=scenes.CROWDED if seed % 2 else scenes.EASY)
    alphas = [_covered_pixels(scene, i) for i in range(len(scene.pairs))]
    owners = scenes.patch_owners(scene).reshape(12, 12)
    for row in range(12):
        for column in range(12):
            window = np.s_[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            shares = [a[window].mean() for a in alphas]
            expected = int(np.argmax(shares)) if max(shares) > scenes.MIN_COVERAGE else -1
            owner = owners[row, column]
            assert owner == expected or shares[owner] == pytest.approx(max(shares), abs=1e-6)


def test_an_object_changes_only_pixels_near_its_cell():
    scene = draw(1)
    picture = scenes.render(scene, np.random.default_rng(0)).astype(int)
    owners = scenes.patch_owners(scene).reshape(12, 12)
    colours = np.array([scenes.COLORS[scenes.COLOR_NAMES[c]] for c in scene.colors])
    row, column = np.argwhere(owners >= 0)[0]
    patch = picture[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].reshape(-1, 3)
    distance = np.abs(patch - colours[owners[row, column]]).sum(1)
    assert distance.min() < 110
