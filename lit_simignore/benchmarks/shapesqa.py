"""ShapesQA: the bundled benchmark. Generated from a seed, never downloaded.

Data: drawn by ``lit_simignore.shapes``; test scenes are disjoint from training scenes by construction (the hash of a
scene's layout decides its world). Revision: ``REVISION``. Three tasks:

* ``choice`` - ScienceQA's prompt form with 2 to 5 options: colour, shape, a hop, counting, comparison. Position
  and ``hop-pair`` (options of two words) are not asked unless ``kinds`` says so: the bundled model never learned them.
* ``existence`` - POPE's form, half yes, half no with random, popular and adversarial negatives from the generator's own
  statistics.
* ``caption``, ``crowded-caption`` - a list of what is there, scored as CHAIR does. Crowded scenes hold more objects
  than training ever shows, so that there is hallucination to measure.

Every sample knows the patches that its answer depends on: no benchmark of real images can score a pruner on that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
from PIL import Image

from lit_simignore.benchmarks._letter_answers import parse_letter
from lit_simignore.benchmarks._letters import letter_segments
from lit_simignore.benchmarks._scoring import Scoring, option_candidates
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.metrics.hallucination import CaptionObjects, chair_scores, count_chair, count_yes_no, yes_no_scores
from lit_simignore.shapes import questions as q
from lit_simignore.shapes.scenes import CROWDED, EASY, PATCHES_PER_SIDE, Scene, draw_scene, patch_owners, render
from lit_simignore.shapes.vocabulary import COLOR_NAMES, LETTERS, SHAPE_NAMES
from lit_simignore.types import Candidates, NeededPatches, Prediction, Role, Sample, Segment, UserError

REVISION = 1
TASKS = ("choice", "existence", "caption", "crowded-caption")
_OBJECT = re.compile(rf"\b({'|'.join(COLOR_NAMES)})\s+({'|'.join(SHAPE_NAMES)})\b")


@dataclass(kw_only=True)
class ShapesQA(Benchmark):
    """Questions about generated scenes.

    Args:
        tasks: which of ``choice``, ``existence``, ``caption``, ``crowded-caption``.
        kinds: of multiple-choice questions: ``color``, ``shape``, ``position``, ``hop``, ``hop-pair``, ``count``,
            ``more``.
        num_scenes: scenes per task; every scene gives one sample per question asked of it.
        seed: draws other scenes; the default is the one that the model card reports.
        scoring: of multiple-choice questions: ``generate`` an answer and parse it, or take the option of the most
            likely letter (``likelihood``) or text (``likelihood-text``, per token ``likelihood-text-mean``).
    """

    tasks: list[str] = field(default_factory=lambda: ["choice", "existence"])
    kinds: list[str] = field(default_factory=lambda: ["color", "shape", "hop", "count", "more"])
    num_scenes: int = 150
    seed: int = 999
    scoring: Scoring = Scoring.GENERATE

    protocol: ClassVar[str] = "shapesqa-v1"
    max_new_tokens: ClassVar[int] = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_names("tasks", self.tasks, TASKS)
        _check_names("kinds", self.kinds, tuple(q.CHOICE_KINDS))
        if self.num_scenes < 1:
            raise UserError(f"benchmark.num_scenes must be at least 1; got {self.num_scenes}")

    def load(self) -> Sequence[Sample]:
        """Scene by scene, the tasks in the order given, so that a limit keeps the tasks in balance."""
        samples = [s for i in range(self.num_scenes) for task in self.tasks for s in self._ask(task, i)]
        return samples[: self.limit]

    def _ask(self, task: str, index: int) -> list[Sample]:
        if task == "choice":
            return _choices(self.seed, index, self.kinds)
        return _existence(self.seed, index) if task == "existence" else _caption(task, self.seed, index)

    def identity(self) -> Mapping[str, object]:
        """Protocol, revision of the generator, seed and tasks; how many scenes does not change a scene."""
        return {
            "protocol": self.protocol,
            "revision": REVISION,
            "seed": self.seed,
            "tasks": list(self.tasks),
            "kinds": list(self.kinds),
            "scoring": self.scoring.value,
        }

    def candidates(self, sample: Sample) -> Candidates | None:
        """The options, where there are some and they are not to be written."""
        return option_candidates(self.scoring, sample.choices)

    def parse(self, output: str, sample: Sample) -> str | None:
        """A valid option letter, ``yes`` or ``no`` as first word, or the listed objects, by the kind of sample."""
        if sample.choices:
            letter = parse_letter(output)
            return letter if letter in LETTERS[: len(sample.choices)] else None
        if _is_caption(sample):
            return ", ".join(f"{color} {shape}" for color, shape in _OBJECT.findall(output))
        words = re.findall(r"[a-z]+", output.lower())
        return words[0] if words and words[0] in ("yes", "no") else None

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """1 for the right answer; for a caption, 1 if it names nothing that is not there (1 - CHAIR_s)."""
        if sample.answer is None:
            return None
        if not _is_caption(sample):
            return float(parsed == sample.answer)
        return float(parsed is not None and _objects(parsed) <= _objects(sample.answer))

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """POPE's numbers over existence questions, CHAIR's over captions."""
        found: dict[str, float] = {}
        existence = [(p.parsed, p.answer or "") for p in predictions if p.kind.startswith("existence")]
        if existence:
            scores = yes_no_scores(count_yes_no(existence))._asdict()
            found |= {f"existence_{name}": value for name, value in scores.items()}
        for task in ("caption", "crowded-caption"):
            captions = [_caption_objects(p) for p in predictions if p.kind == task]
            if captions:
                scores = chair_scores(count_chair(captions))._asdict()
                found |= {f"{task.replace('-', '_')}_{name}": value for name, value in scores.items()}
        return found


def _is_caption(sample: Sample) -> bool:
    return sample.kind in ("caption", "crowded-caption")


def _listed(text: str) -> list[str]:
    return [f"{color} {shape}" for color, shape in _OBJECT.findall(text)]


def _caption_objects(prediction: Prediction) -> CaptionObjects:
    output = prediction.output
    return CaptionObjects(_listed(output), _objects(prediction.answer or ""), len(output.split()))


def _objects(text: str) -> set[str]:
    return set(_listed(text))


# ---------------------------------------------------------------- drawing samples


def _rng(seed: int, task: str, index: int) -> np.random.Generator:
    """One independent stream per scene: a sample never depends on how many others are drawn."""
    return np.random.default_rng((seed, TASKS.index(task), index))


def _picture(seed: int, task: str, index: int) -> Image.Image:
    """Draw scene ``index`` again and render it: cheaper than keeping every picture, and it survives pickling."""
    rng = _rng(seed, task, index)
    crowd = CROWDED if task == "crowded-caption" else EASY
    return Image.fromarray(render(draw_scene(rng, "test", crowd), rng, "test"))


def _scene(seed: int, task: str, index: int) -> tuple[Scene, np.random.Generator]:
    rng = _rng(seed, task, index)
    scene = draw_scene(rng, "test", CROWDED if task == "crowded-caption" else EASY)
    return scene, np.random.default_rng((seed, TASKS.index(task), index, 1))


def _needed(scene: Scene, objects: tuple[int, ...]) -> tuple[NeededPatches, ...]:
    indices = np.flatnonzero(np.isin(patch_owners(scene), objects))
    if not len(indices):
        return ()
    return (NeededPatches((PATCHES_PER_SIDE, PATCHES_PER_SIDE), tuple(map(int, indices))),)


def _sample(
    seed: int,
    task: str,
    index: int,
    name: str,
    scene: Scene,
    kind: str,
    question: q.Question,
    segments: tuple[Segment, ...],
    answer: str,
    choices: tuple[str, ...] = (),
) -> Sample:
    group = f"{task}-{seed}-{index:05d}"
    return Sample(
        sample_id=f"{group}-{name}",
        segments=segments,
        images=(partial(_picture, seed, task, index),),
        group_id=group,
        choices=choices,
        answer=answer,
        kind=kind,
        needed=_needed(scene, question.objects),
    )


def _check_names(field_name: str, given: Sequence[str], valid: Sequence[str]) -> None:
    if not given or set(given) - set(valid):
        raise UserError(f"benchmark.{field_name} must name some of {', '.join(valid)}; got {list(given)}")


def _choices(seed: int, index: int, kinds: Sequence[str]) -> list[Sample]:
    """At most two kinds per scene, all kinds about equally often."""
    scene, rng = _scene(seed, "choice", index)
    samples: list[Sample] = []
    for offset in range(len(kinds)):
        kind = kinds[(2 * index + offset) % len(kinds)]
        question = q.CHOICE_KINDS[kind](rng, scene)
        if question is None:
            continue
        choice = q.with_options(rng, question, 3 if kind == "more" else None)
        segments = letter_segments(question.text, choice.options)
        samples.append(
            _sample(seed, "choice", index, kind, scene, kind, question, segments, choice.letter, choice.options)
        )
        if len(samples) == 2:
            break
    return samples


def _existence(seed: int, index: int) -> list[Sample]:
    """One yes and one no per scene; the kind of negative goes round."""
    scene, rng = _scene(seed, "existence", index)
    negative = q.NEGATIVES[index % len(q.NEGATIVES)]
    asked = {"yes": q.existence(rng, scene, None), "no": q.existence(rng, scene, negative)}
    return [
        _sample(
            seed,
            "existence",
            index,
            name,
            scene,
            f"existence-{negative}",
            question,
            (Segment(question.text, Role.QUESTION),),
            question.answer,
        )
        for name, question in asked.items()
    ]


def _caption(task: str, seed: int, index: int) -> list[Sample]:
    scene, _ = _scene(seed, task, index)
    question = q.caption(scene)
    segments = (Segment(question.text, Role.QUESTION),)
    return [_sample(seed, task, index, "list", scene, task, question, segments, question.answer)]
