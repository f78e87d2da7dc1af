"""MME's two accuracies per task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class TaskScores(NamedTuple):
    """Right answers over questions, and images with both questions right over images; 0 to 1."""

    acc: float
    acc_plus: float


def mme_scores(scored: Iterable[tuple[str, str, float | None]]) -> dict[str, TaskScores]:
    """The scores of every task, in order of first appearance.

    Args:
        scored: ``(task, image, score)``, a score of 1 for right; answers without a score are left out. An image of
            which not both answers are there does not count for accuracy+.

    Source: Fu et al., 2023 (arXiv:2306.13394), section 2.2. A task's score there is 100 x (acc + acc_plus).
    """
    images: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task, image, score in scored:
        if score is not None:
            images[task][image].append(score)
    return {task: _task(list(found.values())) for task, found in images.items()}


def _task(images: list[list[float]]) -> TaskScores:
    answers = [score for scores in images for score in scores]
    pairs = [scores for scores in images if len(scores) == 2]
    both = sum(scores == [1, 1] for scores in pairs)
    return TaskScores(sum(answers) / len(answers), both / len(pairs) if pairs else 0.0)
