"""Draw scenes: which objects stand where, and the picture of it. Deterministic given a random generator.

A scene belongs to the training or to the test world by the hash of what stands where, so that no test scene can ever
be trained on, whatever the seeds.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_simignore.shapes.vocabulary import COLOR_NAMES, COLORS, NUM_PAIRS, SHAPE_NAMES

IMAGE_SIZE = 96
PATCH_SIZE = 8
PATCHES_PER_SIDE = IMAGE_SIZE // PATCH_SIZE
CELLS_PER_SIDE = 4
CELL_SIZE = IMAGE_SIZE // CELLS_PER_SIDE
SPRITE_SIZE = 24
OBJECT_SIZES = (14, 16, 18, 20)
ANGLES = tuple(np.deg2rad([-12.0, 0.0, 12.0]))
NUM_THEMES = 8
TEST_BUCKETS = 10
"""One scene in this many belongs to the test world."""
NUM_BACKGROUNDS = {"train": 1500, "test": 300}
MIN_COVERAGE = 0.15
"""Share of a patch that an object must cover for the patch to count as the object's."""

_SHAPES = len(SHAPE_NAMES)
_RGB = np.array([COLORS[name] for name in COLOR_NAMES], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What stands where. Objects are in reading order. All arrays have shape ``(n,)``, ``jitter`` has ``(n, 2)``.

    Args:
        pairs: pair ids (colour * 8 + shape).
        rows, columns: cell coordinates, 0 to 3.
        jitter: pixel offsets (vertical, horizontal).
        sizes, angles: indices into ``OBJECT_SIZES`` and ``ANGLES``.
    """

    pairs: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    jitter: NDArray[np.int64]
    sizes: NDArray[np.int64]
    angles: NDArray[np.int64]

    @property
    def colors(self) -> NDArray[np.int64]:
        return self.pairs // _SHAPES

    @property
    def shapes(self) -> NDArray[np.int64]:
        return self.pairs % _SHAPES

    @property
    def bucket(self) -> int:
        """Hash of the layout, 0 to ``TEST_BUCKETS`` - 1; bucket 0 is the test world."""
        layout = np.stack([self.rows, self.columns, self.pairs]).astype(np.int64)
        return zlib.crc32(layout.tobytes()) % TEST_BUCKETS


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """How many objects a scene has and how freely they lie."""

    fewest: int = 3
    most: int = 7
    max_jitter: int = 2


EASY = Crowd()
CROWDED = Crowd(fewest=8, most=12, max_jitter=5)
"""More objects than training ever shows, pushed into each other: captions of these hallucinate."""


# ---------------------------------------------------------------- statistics of the world


@cache
def popularity() -> NDArray[np.float64]:
    """``(64,)`` probability of every pair when it is not drawn from a theme."""
    weights = np.random.default_rng(42).permutation(1.0 / (np.arange(NUM_PAIRS) + 6.0))
    return weights / weights.sum()


@cache
def themes() -> NDArray[np.int64]:
    """``(8, 8)`` pair ids that like to appear together."""
    rng = np.random.default_rng(43)
    return np.stack([rng.choice(NUM_PAIRS, 8, replace=False, p=popularity()) for _ in range(NUM_THEMES)])


@cache
def frequency() -> NDArray[np.float64]:
    """``(64,)`` marginal probability of every pair: the ranking behind "popular" negatives."""
    in_theme = np.bincount(themes().ravel(), minlength=NUM_PAIRS) / themes().size
    return 0.5 * popularity() + 0.5 * in_theme


@cache
def co_occurrence() -> NDArray[np.float64]:
    """``(64, 64)`` lift of seeing two pairs together: the ranking behind "adversarial" negatives."""
    joint = np.zeros((NUM_PAIRS, NUM_PAIRS))
    for theme in themes():
        given_theme = 0.5 * popularity()
        given_theme[theme] += 0.5 / len(theme)
        joint += np.outer(given_theme, given_theme)
    return joint / np.outer(frequency(), frequency())


def draw_scene(rng: np.random.Generator, world: str = "train", crowd: Crowd = EASY) -> Scene:
    """Draw scenes until one belongs to ``world`` (``"train"`` or ``"test"``)."""
    while True:
        scene = _draw(rng, crowd)
        if (scene.bucket == 0) == (world == "test"):
            return scene


def _draw(rng: np.random.Generator, crowd: Crowd) -> Scene:
    count = int(rng.integers(crowd.fewest, crowd.most + 1))
    theme = themes()[rng.integers(NUM_THEMES)]
    themed = rng.random(count) < 0.5
    pairs = np.where(themed, rng.choice(theme, count), rng.choice(NUM_PAIRS, count, p=popularity()))
    cells = np.sort(rng.choice(CELLS_PER_SIDE**2, count, replace=False))
    return Scene(
        pairs=pairs.astype(np.int64),
        rows=cells // CELLS_PER_SIDE,
        columns=cells % CELLS_PER_SIDE,
        jitter=rng.integers(-crowd.max_jitter, crowd.max_jitter + 1, (count, 2)),
        sizes=rng.integers(0, len(OBJECT_SIZES), count),
        angles=rng.integers(0, len(ANGLES), count),
    )


# ---------------------------------------------------------------- pictures


def render(scene: Scene, rng: np.random.Generator, world: str = "train") -> NDArray[np.uint8]:
    """The picture, ``(96, 96, 3)`` uint8, on a background that belongs to ``world``."""
    canvas = background(world, int(rng.integers(NUM_BACKGROUNDS[world]))).astype(np.float32)
    colors = _RGB[scene.colors] + rng.normal(0, 12, (len(scene.pairs), 3)).astype(np.float32)
    for index, color in enumerate(colors):
        top, left = _corner(scene, index)
        mask = _sprite_of(scene, index)[..., None]
        window = canvas[top : top + SPRITE_SIZE, left : left + SPRITE_SIZE]
        window += mask * (color - window)
    canvas += rng.normal(0, 8)
    canvas += rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.float32) * 5
    return np.clip(canvas, 0, 255).astype(np.uint8)


def patch_owners(scene: Scene) -> NDArray[np.int64]:
    """``(144,)`` index of the object that covers each patch most, -1 where none covers ``MIN_COVERAGE`` of it."""
    owners = np.full((PATCHES_PER_SIDE, PATCHES_PER_SIDE), -1, np.int64)
    best = np.full((PATCHES_PER_SIDE, PATCHES_PER_SIDE), MIN_COVERAGE, np.float32)
    for index in range(len(scene.pairs)):
        top, left = _corner(scene, index)
        first_row, first_column = top // PATCH_SIZE, left // PATCH_SIZE
        padded = np.zeros((4 * PATCH_SIZE, 4 * PATCH_SIZE), np.float32)
        y, x = top % PATCH_SIZE, left % PATCH_SIZE
        padded[y : y + SPRITE_SIZE, x : x + SPRITE_SIZE] = _sprite_of(scene, index)
        share = padded.reshape(4, PATCH_SIZE, 4, PATCH_SIZE).mean((1, 3))
        height, width = min(4, PATCHES_PER_SIDE - first_row), min(4, PATCHES_PER_SIDE - first_column)
        area = np.s_[first_row : first_row + height, first_column : first_column + width]
        wins = share[:height, :width] > best[area]
        owners[area][wins] = index
        best[area][wins] = share[:height, :width][wins]
    return owners.ravel()


def _corner(scene: Scene, index: int) -> tuple[int, int]:
    limit = IMAGE_SIZE - SPRITE_SIZE
    top = int(np.clip(scene.rows[index] * CELL_SIZE + scene.jitter[index, 0], 0, limit))
    left = int(np.clip(scene.columns[index] * CELL_SIZE + scene.jitter[index, 1], 0, limit))
    return top, left


def _sprite_of(scene: Scene, index: int) -> NDArray[np.float32]:
    return sprite(int(scene.shapes[index]), int(scene.sizes[index]), int(scene.angles[index]))


@cache
def sprite(shape: int, size: int, angle: int, supersample: int = 4) -> NDArray[np.float32]:
    """Coverage mask ``(24, 24)`` in 0..1 of one shape at one size and angle (indices)."""
    resolution = SPRITE_SIZE * supersample
    grid = (np.arange(resolution, dtype=np.float32) + 0.5) / supersample - SPRITE_SIZE / 2
    x, y = np.meshgrid(grid, grid)
    cos, sin = np.cos(ANGLES[angle]), np.sin(ANGLES[angle])
    radius = OBJECT_SIZES[size] / 2
    inside = _INSIDE[SHAPE_NAMES[shape]]((cos * x + sin * y) / radius, (-sin * x + cos * y) / radius)
    return inside.reshape(SPRITE_SIZE, supersample, SPRITE_SIZE, supersample).mean((1, 3)).astype(np.float32)


def _star(u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.bool_]:
    sector = 2 * np.pi / 5
    to_tip = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2) / (sector / 2)
    return np.hypot(u, v) < 1.08 * (1 - to_tip) + 0.42 * to_tip


def _heart(u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.bool_]:
    x, y = 1.2 * u, 0.1 - 1.2 * v
    return (x**2 + y**2 - 1) ** 3 - 1.2 * x**2 * y**3 < 0


_INSIDE = {
    "circle": lambda u, v: np.hypot(u, v) < 0.95,
    "ring": lambda u, v: (np.hypot(u, v) < 1.0) & (np.hypot(u, v) > 0.52),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.8,
    "diamond": lambda u, v: abs(u) / 0.72 + abs(v) / 1.08 < 1,
    "triangle": lambda u, v: (v < 0.75) & (v > -1) & (abs(u) < (v + 1) * 0.58),
    "cross": lambda u, v: ((abs(u) < 0.32) & (abs(v) < 1)) | ((abs(v) < 0.32) & (abs(u) < 1)),
    "star": _star,
    "heart": _heart,
}


@lru_cache(maxsize=2048)
def background(world: str, index: int) -> NDArray[np.float16]:
    """Textured backdrop ``(96, 96, 3)`` with grey clutter; the two worlds share none."""
    rng = np.random.default_rng((777, sorted(NUM_BACKGROUNDS).index(world), index))
    base = rng.uniform(30, 110) + rng.uniform(-12, 12, 3)
    coarse = rng.normal(0, rng.uniform(5, 22), (7, 7, 1)) + rng.normal(0, 6, (7, 7, 3))
    image = np.kron(coarse, np.ones((14, 14, 1)))[:IMAGE_SIZE, :IMAGE_SIZE]
    image = (image + np.roll(image, 5, 0) + np.roll(image, 5, 1) + np.roll(image, 9, 0)) / 4
    if rng.random() < 0.5:
        image = image + _stripes(rng)
    image = image + base
    for _ in range(rng.integers(0, 14)):
        _add_clutter(image, rng)
    return image.astype(np.float16)


def _stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE]
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(0.2, 1.0)
    return (rng.uniform(4, 16) * np.sin(pitch * (np.cos(angle) * x + np.sin(angle) * y)))[..., None]


def _add_clutter(image: NDArray[np.float64], rng: np.random.Generator) -> None:
    y, x = rng.integers(0, IMAGE_SIZE - 12, 2)
    grey = rng.uniform(60, 170) + rng.uniform(-20, 20, 3)
    length, thickness, form = rng.integers(3, 12), rng.integers(1, 3), rng.random()
    if form < 0.5:
        image[y : y + thickness, x : x + length] = grey
    elif form < 0.75:
        image[y : y + length, x : x + thickness] = grey
    else:
        image[y : y + 3, x : x + 3] = grey
