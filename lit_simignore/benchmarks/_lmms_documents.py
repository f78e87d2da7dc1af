"""The documents of one lmms-eval task: what is asked, which pictures are shown, what an output is worth.

Everything that decides about a number is lmms-eval's own: its prompt, its filters, its ``process_results``.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lit_simignore.types import UserError


@dataclass
class Documents:
    """The documents that a task asks about.

    Args:
        task: the task object of lmms-eval.
    """

    task: Any
    _shown: tuple[int, list[Any]] = field(default=(-1, []), init=False, repr=False)
    _stored: Any = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.task.eval_docs_no_media)

    def prompt(self, index: int) -> str:
        """The text that lmms-eval would give to a model, without any chat template."""
        text = self.task.fewshot_context(doc=self._doc(index), num_fewshot=0)
        if not isinstance(text, str):
            raise UserError(f"its prompt is a {type(text).__name__}; expected text")
        return text

    def targets(self, index: int) -> list[str]:
        """The right answers as text; none where the data have none."""
        target = self.task.doc_to_target(self._doc(index))
        choices = self.task.doc_to_choice(self._doc(index)) if self.task.config.doc_to_choice is not None else None
        if isinstance(target, int) and choices is not None:
            target = choices[target]
        listed = target if isinstance(target, (list, tuple)) else [target]
        return [str(entry) for entry in listed if entry is not None and str(entry).strip()]

    def pictures(self, index: int) -> tuple[int, str]:
        """How many pictures the document shows, and a name for them that is the same wherever they are the same.

        Blank ones stand in for the stored ones: decoding a whole benchmark to count would take minutes.
        """
        stored = self._undecoded(index)
        names = hashlib.sha256()
        blank = {key: _blank(value, names) for key, value in stored.items()} if stored else {}
        try:
            shown = self.task.doc_to_visual(self.task.eval_docs[index] if not stored else blank)
        # Code that looks at pixels may not get along with a blank picture; the real one is then what counts.
        except Exception:
            shown = self.visuals(index)
        shown = list(shown or [])
        if other := [entry for entry in shown if not isinstance(entry, Image.Image)]:
            raise UserError(f"shows a {type(other[0]).__name__} (a video or a sound); expected pictures")
        return len(shown), names.hexdigest()[:12] if stored and shown else str(index)

    def visuals(self, index: int) -> list[Any]:
        """The pictures themselves; those of the document that was asked for last are kept."""
        if self._shown[0] != index:
            self._shown = (index, list(self.task.doc_to_visual(self.task.eval_docs[index]) or []))
        return self._shown[1]

    def results(self, index: int, output: str) -> dict[str, dict[str, Any]]:
        """What ``process_results`` says about an output, by the name of the filter that it went through first.

        Some tasks guess where they cannot read an answer. The guess is made from the document's number, so that it is
        the same in every process and whenever a run is summed up again.
        """
        doc, task = self._doc(index), self.task
        request = _request(task, index, output)
        tags = _reasoning_tags(task)
        score = getattr(task.process_results, "__wrapped__", None)  # as it is, without waiting and trying again
        found = {}
        with _seeded(f"{task.config.task}/{index}"):
            for pipeline in task._filters:
                pipeline.apply([request], [doc])
                answer = _without_reasoning(request.filtered_resps[pipeline.name], tags)
                found[pipeline.name] = score(task, doc, [answer]) if score else task.process_results(doc, [answer])
        return found

    def _doc(self, index: int) -> Any:
        return self.task.eval_docs_no_media[index]

    def _undecoded(self, index: int) -> dict[str, Any] | None:
        """The document with its pictures as bytes; ``None`` where the data are no table of which that can be had."""
        if self._stored is None:
            self._stored = _stored_table(self.task.eval_docs)
        return None if self._stored is False else dict(self._stored[index])


@dataclass(frozen=True)
class Picture:
    """Opens one picture of one document when called."""

    documents: Documents
    index: int
    place: int

    def __call__(self) -> Image.Image:
        shown = self.documents.visuals(self.index)
        if self.place >= len(shown):
            raise UserError(f"document {self.index} shows {len(shown)} pictures; expected at least {self.place + 1}")
        picture: Image.Image = shown[self.place]
        return picture


def score_of(results: Mapping[str, Any], metrics: Mapping[str, bool]) -> float | None:
    """One number from 0 to 1 for one sample: the first metric that has one. Higher is better, whatever the metric.

    Args:
        results: of ``process_results``: numbers, or records with a ``score``.
        metrics: names in the order of the task, and whether higher is better.
    """
    for name, higher in metrics.items():
        value = results.get(name)
        value = value.get("score") if isinstance(value, Mapping) else value
        if isinstance(value, (bool, int, float, np.number)) and 0 <= float(value) <= 1:
            return float(value) if higher else 1 - float(value)
    return None


# ---------------------------------------------------------------- pictures that nobody has looked at


def _stored_table(docs: Any) -> Any:
    """``docs`` with the columns of pictures undecoded; False where they are no table."""
    if not hasattr(docs, "cast_column"):
        return False
    for name, feature in docs.features.items():
        stored = _undecoded_feature(feature)
        if stored is not None:
            docs = docs.cast_column(name, stored)
    return docs


def _undecoded_feature(feature: Any) -> Any:
    datasets = importlib.import_module("datasets")
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    inner = getattr(feature, "feature", None)
    return type(feature)(datasets.Image(decode=False)) if isinstance(inner, datasets.Image) else None


def _blank(value: Any, names: Any) -> Any:
    """``value`` with a blank picture for everything that is one; ``names`` gets to know their bytes."""
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        names.update(value["bytes"] or str(value["path"]).encode())
        return Image.new("RGB", (1, 1))
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [_blank(entry, names) for entry in value]
    return value


# ---------------------------------------------------------------- reading an output as lmms-eval does


def _request(task: Any, index: int, output: str) -> Any:
    instance = importlib.import_module("lmms_eval.api.instance").Instance
    about = {"task": task.config.task, "doc_id": index, "repeats": 1}
    return instance(request_type=task.OUTPUT_TYPE, arguments=(), idx=0, metadata=about, resps=[output])


def _reasoning_tags(task: Any) -> Sequence[Sequence[str]] | None:
    reasoning = importlib.import_module("lmms_eval.api.reasoning")
    tags: Sequence[Sequence[str]] | None = reasoning.parse_reasoning_tags_config(
        task_value=getattr(task.config, "reasoning_tags", None)
    )
    return tags


def _without_reasoning(answer: Any, tags: Sequence[Sequence[str]] | None) -> Any:
    if tags is None or not isinstance(answer, str):
        return answer
    return importlib.import_module("lmms_eval.api.reasoning").strip_reasoning_tags(answer, tags)


@contextmanager
def _seeded(name: str) -> Iterator[None]:
    """The generators that tasks draw from, begun from ``name``, and afterwards as they were."""
    states = random.getstate(), np.random.get_state()
    random.seed(name)
    np.random.seed(random.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
