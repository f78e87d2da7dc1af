"""Any image task of lmms-eval, answered by our loop: its prompt, its reading of answers, its aggregation.

Needs lmms-eval 0.7 (extra ``lmms``). Data, revision and licence are those of the task; with ``path`` they are a local
copy in the task's own layout. The protocol is the version of lmms-eval and the task; code and settings of the task are
part of a run's identity.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from lit_simignore.benchmarks._lmms_documents import Documents, Picture, score_of
from lit_simignore.benchmarks._lmms_tasks import TaskFile, check_runs, find_task, load_task, version
from lit_simignore.benchmarks._names import metric_name
from lit_simignore.benchmarks._sourced import digest, find_files
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.types import Prediction, Role, Sample, Segment, UserError

_PATTERNS = ("{subset}/{split}-*.parquet", "data/{split}-*.parquet", "{split}-*.parquet", "{split}.parquet",
             "*/{split}-*.parquet", "{split}.jsonl")  # fmt: skip
_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}

_DEFAULT_TOKENS = 1024
"""What lmms-eval's ``llava_hf`` generates for a task that says nothing."""


@dataclass(kw_only=True)
class LMMSEval(Benchmark):
    """A task of lmms-eval, by name.

    Args:
        task: its name, such as ``scienceqa_img``, ``pope`` or ``mmstar``. Tasks of pictures with one greedy answer run;
            others are refused.
        path: a local copy of its data: a Parquet file, or a folder in the layout of the hub. Unset, the task fetches
            its own.
        prompts: whose prompts, where a task has some of their own for a model.

    A sample's score is the task's first metric that is a number from 0 to 1; all metrics are beside it, aggregated by
    the task. An answer ends where the task's ``until`` says, also if the model went on.
    """

    task: str = ""
    path: str = ""
    prompts: str = "default"

    _documents: Documents | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def protocol(self) -> str:
        """The version of lmms-eval and the task; ``default`` prompts are not mentioned."""
        prompts = "" if self.prompts == "default" else f":{self.prompts}"
        return f"lmms-eval/{version()}:{self.task}{prompts}"

    @property
    def max_new_tokens(self) -> int:
        """As the task says."""
        return int(self._setting("max_new_tokens") or _DEFAULT_TOKENS)

    @property
    def headline(self) -> tuple[str, ...]:
        """The task's metrics."""
        return tuple(metric_name(name) for name in self._file().metrics)

    def load(self) -> Sequence[Sample]:
        """All documents, in their order; pictures stay unopened.

        Raises:
            UserError: no such task, one that the loop cannot run, or data that it cannot read.
        """
        documents = self._loaded()
        samples = []
        for index in range(min(len(documents), self.limit or len(documents))):
            try:
                samples.append(self._sample(documents, index))
            # The task's own code reads the data; which of them it cannot read is all that can be said here.
            except Exception as error:
                said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                raise UserError(f"lmms-eval's task {self.task!r}, document {index}: {said}") from error
        if not samples:
            raise UserError(f"lmms-eval's task {self.task!r} has no documents in {self.path or 'its own data'}")
        return samples

    def _sample(self, documents: Documents, index: int) -> Sample:
        number, name = documents.pictures(index)
        targets = [target for text in documents.targets(index) if (target := self._read(text))]
        return Sample(
            sample_id=str(index),
            segments=tuple(self._segments(documents.prompt(index))),
            images=tuple(Picture(documents, index, place) for place in range(number)),
            group_id=name,
            answer=targets[0] if targets else None,
            references=tuple(targets) if len(targets) > 1 else (),
        )

    def _segments(self, prompt: str) -> Iterator[Segment]:
        """The prompt as it is; what the task puts around every question is marked as such."""
        around = getattr(self._loaded().task, "lmms_eval_specific_kwargs", None) or {}
        before, after = str(around.get("pre_prompt") or ""), str(around.get("post_prompt") or "")
        before = before if prompt.startswith(before) else ""
        after = after if prompt.endswith(after) and len(before) + len(after) < len(prompt) else ""
        for text, role in (
            (before, Role.TEMPLATE),
            (prompt[len(before) : len(prompt) - len(after)], Role.QUESTION),
            (after, Role.TEMPLATE),
        ):
            if text:
                yield Segment(text, role)

    def parse(self, output: str, sample: Sample) -> str | None:
        """The output up to where the task ends an answer; what it means is for :meth:`score`, which the task does."""
        return self._read(output) or None

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """The task's first metric that is a number from 0 to 1; turned over where lower is better."""
        return self._score(int(sample.sample_id), parsed or "")

    def _score(self, index: int, text: str) -> float | None:
        results = self._loaded().results(index, text)
        return score_of(next(iter(results.values())), self._higher_is_better())

    def aggregate(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """The task's metrics, by its own aggregation, from the saved outputs.

        One that fails, or that only writes a file for a server, is left out with a warning.
        """
        collected: dict[tuple[str, str], list[Any]] = {}
        for entry in predictions:
            if entry.error is None:
                results = self._loaded().results(int(entry.sample_id), self._read(entry.output))
                for pipeline, values in results.items():
                    for metric, value in values.items():
                        collected.setdefault((metric, pipeline), []).append(value)
        found: dict[str, float] = {}
        for (metric, pipeline), gathered in collected.items():
            name = metric_name(metric) if pipeline == "none" else metric_name(metric, pipeline)
            found |= dict(_numbers(name, self._aggregated(metric, gathered)))
        return found

    def _aggregated(self, metric: str, values: list[Any]) -> Any:
        combine: Callable[[list[Any]], Any] | None = self._loaded().task.aggregation().get(metric)
        if combine is None:
            return None
        try:
            if "args" in signature(combine).parameters:
                raise UserError("it writes a file for a server, which lmms-eval's own command does")
            return combine(values)
        # One metric that cannot be had is no reason to lose the others, which took hours.
        except Exception as error:
            warnings.warn(f"{self.task}: no {metric}: {type(error).__name__}: {error}", stacklevel=2)
            return None

    def identity(self) -> Mapping[str, object]:
        """The task by its code, settings and version; its data by their content, or as the task names them."""
        task = self._file()
        if self.path:
            data: dict[str, object] = {"sha256": digest(self._files(task))}
        else:
            own = ("dataset_path", "dataset_name", "revision")
            data = {key: task.settings.get(key) for key in own}
        return {
            "protocol": self.protocol,
            "task": task.digest,
            "metadata": task.settings.get("metadata"),
            "split": task.split,
            "data": data,
        }

    # -- the task

    def _file(self) -> TaskFile:
        task = find_task(self.task)
        check_runs(task, self.prompts)
        return task

    def _setting(self, name: str) -> Any:
        """A setting of the generation, that for ``prompts`` before the general one."""
        task = self._file()
        for_model = (task.settings.get("model_specific_generation_kwargs") or {}).get(self.prompts) or {}
        return for_model.get(name, task.generation.get(name))

    def _higher_is_better(self) -> Mapping[str, bool]:
        found: Mapping[str, bool] = self._loaded().task.higher_is_better()
        return found

    def _read(self, output: str) -> str:
        """``output`` up to the first of the strings that end an answer."""
        ends = self._loaded().task.config.generation_kwargs.get("until") or []
        for end in [ends] if isinstance(ends, str) else ends:
            output = output.split(end)[0] if end else output
        return output.strip()

    def _loaded(self) -> Documents:
        if self._documents is None:
            task = self._file()
            self._documents = Documents(load_task(task, self._changes(task), self.prompts))
        return self._documents

    def _changes(self, task: TaskFile) -> dict[str, Any]:
        """Settings that let the task read the local copy."""
        if not self.path:
            return {}
        files = self._files(task)
        return {
            "dataset_path": _READERS[files[0].suffix],
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {task.split: [str(file) for file in files]}},
        }

    def _files(self, task: TaskFile) -> list[Path]:
        """Files of the local copy.

        Raises:
            UserError: there are none, or those of several subsets.
        """
        path = Path(self.path)
        if not path.exists():
            raise UserError(f"expected benchmark.path=<Parquet file or folder>; nothing is at {self.path!r}")
        subset = task.settings.get("dataset_name") or "data"
        files = find_files(path, [pattern.format(split=task.split, subset=subset) for pattern in _PATTERNS])
        if len({file.parent for file in files}) > 1:
            raise UserError(f"{path} holds {task.split!r} of several subsets; set benchmark.path to one of its folders")
        if files[0].suffix not in _READERS:
            raise UserError(
                f"expected {', '.join(_READERS)} files for lmms-eval's task {self.task!r}; got {files[0].name}"
            )
        return files


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The finite numbers in what an aggregation returns: a number, or numbers by name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(metric_name(name, str(key)), inner)
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        return
    if math.isfinite(number):
        yield name, number
