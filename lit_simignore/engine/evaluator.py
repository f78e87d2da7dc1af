"""The evaluation loop as a ``LightningModule``: every batch under every method, one record per sample and method."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from torch import nn

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.collate import Batch, one_line
from lit_simignore.engine.generation import Answers, Prompts, answer, prompts_of, synchronize
from lit_simignore.engine.likelihood import choose
from lit_simignore.engine.lockstep import shard_model
from lit_simignore.engine.memory import SPLIT, Room, is_out_of_memory
from lit_simignore.engine.shared_images import answer_shared, can_share, digest, find_sharing
from lit_simignore.metrics.patches import carried_tokens, needed_recall
from lit_simignore.metrics.records import Key
from lit_simignore.types import Method, Prediction, Sample, UserError

ON_ERROR = ("record", "raise")


@dataclass(slots=True)
class Tally:
    """What this process has done so far, for a progress bar. Scores are those of the first method.

    Args:
        samples: samples that have been through all methods.
        scored: samples with a score.
        total: sum of the scores.
        errors: records of failures, over all methods.
    """

    samples: int = 0
    scored: int = 0
    total: float = 0.0
    errors: int = 0


class LitEvaluator(L.LightningModule):
    """Answers batches of samples under every method, the untouched model first.

    In a notebook, results are in :attr:`predictions` after
    ``Trainer(use_distributed_sampler=False).test(LitEvaluator(...), SampleDataModule(samples))``;
    :func:`~lit_simignore.engine.evaluate.evaluate` adds the durable run folder, resuming and the summary.

    There is no collective and no synchronised ``self.log`` in the loop: processes may have different numbers of
    batches, and metrics are computed once, from the records.

    Args:
        model: a Hugging Face vision-language model. It is moved to the trainer's device unless it is quantized or
            spread over devices already.
        processor: the model's processor.
        benchmark: says what an output is worth.
        methods: at least one; names are unique.
        max_new_tokens: of one answer; ``None`` takes the benchmark's.
        on_error: ``record`` a failing sample as its own error and go on, or ``raise``.
        detailed: ids of the samples whose kept indices and grids are recorded.
        lockstep: the weights are shared out over the processes: shard them, and run every batch whole under every
            method, whatever is recorded already.
        share_images: let the untouched model read a picture once for all questions of a batch about it. Pruners and
            interventions are given separate prompts: what they do may depend on the question.

    Attributes:
        record: is called with the records of every batch and method; by default it extends :attr:`predictions`.
        done: records that exist already: True good, False an error to be tried again.
        predictions: the records, unless :attr:`record` was replaced.
        tally: progress of this process.
        room: what has not fitted into memory so far. A batch that does not fit is halved, and so are later ones of
            that size; nothing is lost, and the records say so (``extra["split"]``: the size that did not fit).

    Raises:
        UserError: no method, two methods of one name, or an unknown ``on_error``.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        benchmark: Benchmark,
        methods: Sequence[Method],
        *,
        max_new_tokens: int | None = None,
        on_error: str = "record",
        detailed: Collection[str] = (),
        lockstep: bool = False,
        share_images: bool = True,
    ) -> None:
        super().__init__()
        if on_error not in ON_ERROR:
            raise UserError(f"on_error must be one of {', '.join(ON_ERROR)}; got {on_error!r}")
        self._hold(model)
        self.lockstep, self._sharded = lockstep, False
        # Processes in step must call the model equally often, whatever their batches show.
        self.share_images = share_images and not lockstep
        self.processor = processor
        self.benchmark = benchmark
        self.methods = baseline_first(methods)
        self.max_new_tokens = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens
        self.on_error = on_error
        self.detailed = frozenset(detailed)
        self.predictions: list[Prediction] = []
        self.record: Callable[[Sequence[Prediction]], None] = self.predictions.extend
        self.done: Mapping[Key, bool] = {}
        self.tally = Tally()
        self.room = Room()

    def _hold(self, model: nn.Module) -> None:
        """Register the model as a submodule only if Lightning may move it: others refuse, or would be torn apart."""
        placed = hasattr(model, "hf_device_map") or getattr(model, "is_quantized", False)
        if placed:
            self._placed = (model,)
        else:
            self.model = model

    @property
    def vlm(self) -> nn.Module:
        """The model."""
        return self._placed[0] if hasattr(self, "_placed") else self.model

    def configure_model(self) -> None:
        """Share the weights out, where the strategy does that; once, although Lightning asks before every test."""
        if self.device_mesh is not None and not self._sharded:
            shard_model(self.vlm, self.device_mesh["data_parallel"])
            self._sharded = True

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Answer one batch under every method and record each as soon as it is there."""
        work = _BatchWork(self, batch)
        for method in self.methods:
            predictions = work.answer(method)
            if predictions:
                self.record(predictions)
                self._count(method, predictions)
            if self.on_error == "raise":
                _raise_first(predictions)
        self.tally.samples += len(batch)

    def _count(self, method: Method, predictions: Sequence[Prediction]) -> None:
        self.tally.errors += sum(entry.error is not None for entry in predictions)
        if method is self.methods[0]:
            scores = [entry.score for entry in predictions if entry.score is not None]
            self.tally.scored += len(scores)
            self.tally.total += sum(scores)


class _BatchWork:
    """One batch on its way through the methods. Prompts are made once and shared by all of them."""

    def __init__(self, owner: LitEvaluator, batch: Batch) -> None:
        self.owner, self.batch = owner, batch
        self.failures = {row: error for row, error in enumerate(batch.errors) if error is not None}
        self._prompts: dict[tuple[int, ...], Prompts] = {}
        self._cells: dict[tuple[int, ...], int] = {}

    def answer(self, method: Method) -> list[Prediction]:
        """The records that are missing of one method, in the order of the batch."""
        rows, wanted = self._rows(method)
        needed = self.owner.lockstep or wanted - self.failures.keys()
        found: dict[int, Prediction] = {}
        for alike in self._alike(rows) if needed else ():
            found |= self._try(method, alike)
        found |= {row: self._failed(method, row, self.failures[row]) for row in rows if row in self.failures}
        return [found[row] for row in sorted(wanted)]

    def _rows(self, method: Method) -> tuple[list[int], set[int]]:
        """Which rows to run and which of them to record.

        A batch that was never finished is run whole, so that no sample gets other neighbours than it would have had
        without an interruption; samples that only failed are tried again by themselves.
        """
        states = [self.owner.done.get((sample.sample_id, method.name)) for sample in self.batch.samples]
        wanted = {row for row, state in enumerate(states) if not state}
        if self.owner.lockstep:
            return list(range(len(states))), wanted
        return (list(range(len(states))) if None in states else sorted(wanted)), wanted

    def _alike(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows whose answers are written, and those whose answers are chosen: a neighbour never decides which."""
        chosen = {row for row in rows if self._is_offered(self.batch.samples[row])}
        parts = [row for row in rows if row not in chosen], [row for row in rows if row in chosen]
        return [part for part in parts if part]

    def _is_offered(self, sample: Sample) -> bool:
        try:
            return self.owner.benchmark.candidates(sample) is not None
        # Asked again where the answer is due, it fails again, and there a failure costs this sample alone.
        except Exception:
            return True

    def _try(self, method: Method, rows: Sequence[int]) -> dict[int, Prediction]:
        """Answer rows together; if that fails, in smaller batches, so that only the cause of the failure is lost."""
        owner, rows = self.owner, tuple(row for row in rows if row not in self.failures)
        if len(rows) > 1 and not owner.room.fits(method.name, self._cells.get(rows, 0)):
            return self._halves(method, rows)
        try:
            prompts = self._group(rows)
            rows = tuple(row for row in rows if row not in self.failures)
            if prompts is None:
                return {}
            if len(rows) > 1 and not owner.room.fits(method.name, self._cells[rows]):
                return self._halves(method, rows)
            answers = self._ask(prompts, method, rows)
        # Whatever a model or a method does wrong costs the samples concerned, not the hours before.
        except Exception as error:
            return self._after(error, method, rows)
        return {row: self._answered(method, row, answers, place) for place, row in enumerate(rows)}

    def _ask(self, prompts: Prompts, method: Method, rows: Sequence[int]) -> Answers:
        """Answers that are written, or chosen where the benchmark gives samples some to choose from."""
        owner = self.owner
        offered = [owner.benchmark.candidates(sample) for sample in prompts.samples]
        if given := [candidates for candidates in offered if candidates is not None]:
            return choose(owner.vlm, owner.processor, prompts, method.parts, given)
        if owner.share_images and not method.parts and len(rows) > 1 and can_share(owner.vlm):
            images = [self.batch.images[row] for row in rows]
            sharing = find_sharing(owner.vlm, prompts, [digest(shown) for shown in images])
            if sharing is not None:
                return answer_shared(owner.vlm, owner.processor, prompts, images, sharing, owner.max_new_tokens)
        return answer(owner.vlm, owner.processor, prompts, method.parts, owner.max_new_tokens)

    def _after(self, error: Exception, method: Method, rows: tuple[int, ...]) -> dict[int, Prediction]:
        """What can still be had of rows that failed together: halves if there was no memory, else one by one."""
        owner = self.owner
        short = is_out_of_memory(error) and len(rows) > 1 and not owner.lockstep
        if owner.on_error == "raise" and not short:
            raise error
        _recover(owner.vlm, error)
        if short:
            if rows in self._cells:
                owner.room.ran_out(method.name, self._cells[rows])
            self._prompts.pop(rows, None)
            return self._halves(method, rows)
        if len(rows) == 1:
            return {rows[0]: self._failed(method, rows[0], one_line(error))}
        return {key: record for row in rows for key, record in self._try(method, [row]).items()}

    def _halves(self, method: Method, rows: tuple[int, ...]) -> dict[int, Prediction]:
        """Answer rows that do not fit together in two batches; the records say what did not fit."""
        half = (len(rows) + 1) // 2
        found = self._try(method, rows[:half]) | self._try(method, rows[half:])
        for record in found.values():
            record.extra = {**record.extra, SPLIT: len(rows)}
        return found

    def _group(self, rows: Sequence[int]) -> Prompts | None:
        """Prompts of the rows that have not failed; a row that makes the processor fail is one that has.

        Raises:
            Exception: there was no memory for several rows together.
        """
        rows = tuple(row for row in rows if row not in self.failures)
        if not rows:
            return None
        if rows not in self._prompts:
            try:
                self._prompts[rows] = self._prepare(rows)
                self._cells[rows] = len(rows) * self._prompts[rows].width
            # The processor is the checkpoint's: it may refuse a prompt in any way.
            except Exception as error:
                if self.owner.on_error == "raise" or (is_out_of_memory(error) and len(rows) > 1):
                    raise
                if len(rows) == 1:
                    self.failures[rows[0]] = one_line(error)
                    return None
                if all([self._group([row]) is not None for row in rows]):
                    # Each passes alone: then it is being together that they do not stand.
                    self.failures |= dict.fromkeys(rows, f"cannot share a batch: {one_line(error)}")
                return self._group(rows)
        return self._prompts[rows]

    def _prepare(self, rows: Sequence[int]) -> Prompts:
        samples, images = self.batch.samples, self.batch.images
        chosen = [samples[row] for row in rows], [images[row] for row in rows]
        return prompts_of(self.owner.processor, *chosen, self.owner.vlm)

    # -- records

    def _blank(self, method: Method, row: int) -> Prediction:
        sample = self.batch.samples[row]
        return Prediction(
            sample_id=sample.sample_id,
            method=method.name,
            group_id=sample.group_id,
            prompt=sample.prompt,
            answer=sample.answer,
            kind=sample.kind,
            choices=sample.choices,
        )

    def _failed(self, method: Method, row: int, error: str) -> Prediction:
        prediction = self._blank(method, row)
        prediction.error = error
        return prediction

    def _answered(self, method: Method, row: int, answers: Answers, place: int) -> Prediction:
        """The record of one answered row, which is at ``place`` among the answers."""
        prediction, sample, trace = self._blank(method, row), self.batch.samples[row], answers.trace
        kept, grids = trace.kept[place].tolist(), trace.grids[place]
        prediction.num_visual_tokens, prediction.num_kept = trace.num_visual[place], len(kept)
        prediction.batch_size = len(answers.outputs)
        prediction.latency_ms = round(answers.wall_ms / len(answers.outputs), 3)
        extra: dict[str, object] = {"budget": asdict(trace.budgets[place])}
        extra |= answers.details[place] if answers.details else {}
        if sample.sample_id in self.owner.detailed:
            prediction.kept, extra["grids"] = kept, [list(grid) for grid in grids]
        prediction.extra = extra
        if not answers.finite[place]:
            prediction.error = "the model's logits are not numbers (NaN): try another dtype or fewer dropped tokens"
            return prediction
        prediction.output = answers.outputs[place]
        stages = [(stage.kept[place].tolist(), stage.sources[place]) for stage in trace.stages]
        self._grade(prediction, sample, kept, carried_tokens(stages), grids)
        return prediction

    def _grade(
        self,
        prediction: Prediction,
        sample: Sample,
        kept: list[int],
        carried: list[int] | None,
        grids: tuple[tuple[int, int], ...],
    ) -> None:
        """Read and score the output; a benchmark or a sample that is broken here is an error of this record.

        Args:
            prediction: of the sample; completed here.
            sample: the question.
            kept: visual tokens whose places survive.
            carried: visual tokens that merged rows are made of; ``None`` where nothing was merged.
            grids: (rows, columns) of every image.
        """
        benchmark = self.owner.benchmark
        try:
            prediction.needed_recall = needed_recall(kept, sample.needed, grids)
            if carried is not None:
                prediction.needed_carried = needed_recall(carried, sample.needed, grids)
            prediction.parsed = benchmark.parse(prediction.output, sample)
            prediction.score = _checked(benchmark.score(prediction.parsed, sample))
        # parse and score promise not to raise; a promise of somebody's benchmark is no reason to stop.
        except Exception as error:
            if self.owner.on_error == "raise":
                raise
            prediction.score, prediction.error = None, one_line(error)


def _raise_first(predictions: Sequence[Prediction]) -> None:
    for entry in predictions:
        if entry.error is not None:
            raise UserError(f"sample {entry.sample_id!r} under {entry.method}: {entry.error} (on_error=record goes on)")


def _checked(score: float | None) -> float | None:
    if score is not None and not 0 <= score <= 1:
        raise UserError(f"a benchmark's score lies between 0 and 1, or is None; got {score!r}")
    return None if score is None else float(score)


def _recover(model: nn.Module, error: Exception) -> None:
    """Make room after a failure, e.g. for lack of memory.

    Raises:
        Exception: ``error`` itself, if the device answers nothing any more: then every later sample would fail too.
    """
    device = next(model.parameters()).device
    # The frames of the failed call hold on to its tensors, which are why there was no memory.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if device.type == "cpu":
        return
    try:
        synchronize(device)
        torch.get_device_module(device).empty_cache()
    except RuntimeError:
        raise error from None


def baseline_first(methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods with the untouched model in front, otherwise in their order.

    Raises:
        UserError: no method, or two of one name.
    """
    if not methods:
        raise UserError("expected at least one method; got none: pass e.g. Method('baseline')")
    names = [method.name for method in methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"method names must be unique; {', '.join(map(repr, twice))} came twice: rename one")
    return tuple(sorted(methods, key=lambda method: bool(method.parts)))
