"""Where the answers of a run come from: shares, sinks, maps, clusters and the cliff of truncation, into ``flow/``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_simignore.attribution.heads import sink_counts
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.engine.fingerprint import digest
from lit_simignore.engine.flow_batches import Batches
from lit_simignore.engine.flow_clusters import leave_clusters_out
from lit_simignore.engine.flow_store import FlowStore, check_plan
from lit_simignore.engine.flow_truncation import swept_layers, truncation_sweep
from lit_simignore.engine.generation import Prompts
from lit_simignore.engine.launch import quiet
from lit_simignore.engine.own_answers import own_answers
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.engine.store import PredictionStore
from lit_simignore.metrics.patches import needed_cover
from lit_simignore.metrics.statistics import cluster_interval
from lit_simignore.pruning.base import evenly_spaced
from lit_simignore.surgery.flow import Flow, SmoothGrad, information_flow
from lit_simignore.types import Sample, UserError

SINK_THRESHOLD = 1.25
"""Sinks get more than this share of 1 / L, as in EAH's default: 0.002 at LLaVA-1.5's 625 tokens."""

MAPS = ("cam", "attention", "saliency")


@dataclass(frozen=True, kw_only=True)
class FlowPlan:
    """What is looked at. Arguments are the keys of ``flow.`` on the command line.

    Args:
        samples: samples that shares and sinks are averaged over.
        shown: samples that are shown one by one.
        layers: 0-based decoder layers; empty for all.
        truncation: samples that truncation is swept over; 0 leaves it out.
        tolerance: loss of accuracy that the cliff allows.
        clusters: clusters per image; 0 leaves them out.
        smooth: noisy copies for SmoothGrad; 0 for none.
        sigma: standard deviation of their noise.
        target: ``logit`` or ``log_prob``.
        queries: ``answer`` or ``prompt``.
        batch_size: samples at a time.
        methods: methods whose kept tokens are shown; empty for all of the run.
    """

    samples: int = 64
    shown: int = 6
    layers: tuple[int, ...] = ()
    truncation: int = 96
    tolerance: float = 0.02
    clusters: int = 5
    smooth: int = 0
    sigma: float = 0.1
    target: str = "logit"
    queries: str = "answer"
    batch_size: int = 8
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (
            ("samples", 1), ("shown", 0), ("truncation", 0), ("tolerance", 0), ("clusters", 0), ("smooth", 0),
            ("sigma", 0), ("batch_size", 1),
        ):  # fmt: skip
            check_plan(name, getattr(self, name), least)

    def numbers(self, *names: str) -> dict[str, Any]:
        """Some of the fields, as a part's question."""
        return {name: value for name, value in asdict(self).items() if name in names}


def analyse_flow(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    run_dir: Path,
    plan: FlowPlan | None = None,
    settings: EvaluationSettings | None = None,
) -> None:
    """Write ``flow/flow.json`` and its arrays into an evaluated run's folder; the report then shows them.

    What is there already for the same question is kept.

    Args:
        model: as for the evaluation.
        processor: likewise.
        benchmark: likewise.
        run_dir: the run folder.
        plan: what is looked at.
        settings: those of the evaluation.

    Raises:
        UserError: the folder holds no run; no sample has an image; a layer that there is not; the folder cannot be
            written.
    """
    settings, run_dir = settings or EvaluationSettings(), Path(run_dir)
    manifest = PredictionStore(run_dir).manifest()
    if manifest is None:
        raise UserError(f"expected a run folder, got {run_dir}: evaluate first, then look at the flow")
    _place(model, settings.accelerator)
    store = FlowStore(run_dir, {"run": digest(manifest["run"])})
    with quiet():
        _Analysis(model.eval(), processor, benchmark, store, plan or FlowPlan(), settings).run()


def _place(model: nn.Module, accelerator: str) -> None:
    """Put the model where the evaluation computed; Lightning takes it off the device afterwards."""
    placed = hasattr(model, "hf_device_map") or getattr(model, "is_quantized", False)
    if accelerator != "cpu" and not placed and torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())


@dataclass(frozen=True, slots=True, eq=False)
class _Reduced:
    """What is left of one sample's flow for the means. ``on_needed`` is ``(3, N)``, NaN where unknown."""

    sample_id: str
    group: str
    layers: tuple[int, ...]
    shares: Tensor
    even: Tensor
    image_by_head: Tensor
    sinks: Tensor
    on_needed: Tensor
    needed_area: float


class _Analysis:
    def __init__(
        self, model: nn.Module, processor: Any, benchmark: Benchmark, store: FlowStore, plan: FlowPlan,
        settings: EvaluationSettings,
    ) -> None:  # fmt: skip
        self.model, self.processor, self.benchmark = model, processor, benchmark
        self.store, self.plan, self.seed = store, plan, settings.seed
        tokens = settings.max_new_tokens
        self.max_new_tokens = benchmark.max_new_tokens if tokens is None else tokens
        loaded = benchmark.load()
        self.samples = [sample for sample in loaded if sample.images]
        self.with_picture = [sample for sample in loaded[: settings.report_samples] if sample.images]
        if not self.samples:
            raise UserError("analysis=flow needs samples with images; this benchmark has none")

    def run(self) -> None:
        plan = self.plan
        swept_layers(self.model, plan.layers)  # refuses a layer that there is not before anything is computed
        maps = plan.numbers("layers", "target", "queries", "smooth", "sigma")
        chosen = self._spread(plan.samples)
        names = {"averages", "samples"}
        self.store.part("averages", {**maps, "samples": _ids(chosen)}, lambda: self._averages(chosen))
        pictured = self._pictured()
        asked = {**maps, "samples": _ids(pictured), "clusters": plan.clusters, "seed": self.seed}
        asked["methods"] = list(plan.methods)
        self.store.part("samples", asked, lambda: {"samples": self._pictures(pictured)})
        if plan.truncation:
            names.add("truncation")
            swept = self._spread(plan.truncation)
            asked = {**plan.numbers("layers", "tolerance"), "samples": _ids(swept), "seed": self.seed}
            self.store.part("truncation", asked, lambda: self._truncation(swept))
        self.store.drop_others(names)

    # -- which samples

    def _spread(self, number: int) -> list[Sample]:
        return [self.samples[index] for index in evenly_spaced(len(self.samples), number)]

    def _pictured(self) -> list[Sample]:
        """Of those that the report has pictures of, kinds in turn, so that a few samples show different questions."""
        queues: dict[str, list[Sample]] = {}
        for sample in self.with_picture:
            queues.setdefault(sample.kind, []).append(sample)
        longest = max(map(len, queues.values()), default=0)
        turns = [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]
        return turns[: self.plan.shown]

    # -- parts

    def _look(self, prompts: Prompts) -> list[tuple[str, Flow]]:
        """The model's own answers and where they come from."""
        plan = self.plan
        outputs, answers = own_answers(self.model, self.processor, prompts, self.max_new_tokens)
        smoothing = SmoothGrad(sigma=plan.sigma, num_samples=plan.smooth) if plan.smooth else None
        flows = information_flow(
            self.model, prompts.inputs, answers, spans=prompts.spans, layers=plan.layers or None, queries=plan.queries,
            target=plan.target, smoothing=smoothing,
        )  # fmt: skip
        return list(zip(outputs, flows, strict=True))

    def _averages(self, samples: Sequence[Sample]) -> dict[str, Any]:
        batches = Batches(self.model, self.processor, self.plan.batch_size)
        # maps are reduced as they come: those of all samples together would fill the memory
        found = [_reduced(sample, flow) for sample, (_, flow) in batches.run(samples, self._look)]
        if not found:
            why = next(iter(batches.left_out.values()), "no samples")
            raise UserError(f"analysis=flow: none of {len(samples)} samples could be looked at; the first one: {why}")
        groups = [entry.group for entry in found]
        shares, on_needed = (torch.stack([getattr(e, name) for e in found]) for name in ("shares", "on_needed"))
        file = self.store.save(
            "averages.npz",
            layers=found[0].layers,
            shares=shares,
            shares_interval=_intervals(shares, groups, self.seed),
            even=torch.stack([entry.even for entry in found]),
            image_by_head=torch.stack([entry.image_by_head for entry in found]),
            sinks=torch.stack([entry.sinks for entry in found]),
            on_needed=on_needed,
            on_needed_interval=_intervals(on_needed, groups, self.seed),
            needed_area=np.array([entry.needed_area for entry in found]),
            samples=np.array([entry.sample_id for entry in found]),
        )
        return {"file": file, "num_samples": len(found), "left_out": batches.left_out, "maps": list(MAPS)}

    def _pictures(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        batches = Batches(self.model, self.processor, self.plan.batch_size)
        for sample, (output, flow) in batches.run(samples, self._look):
            cover = needed_cover(sample.needed, flow.grids)
            arrays: dict[str, Any] = {
                "layers": flow.layers, "cam": flow.cam, "attention": flow.attention, "saliency": flow.saliency,
                "shares": flow.shares, "sinks": sink_share(flow),
            }  # fmt: skip
            if cover is not None:
                arrays["needed"] = cover
            entry: dict[str, Any] = {
                "sample_id": sample.sample_id, "output": output, "grids": [list(g) for g in flow.grids],
            }  # fmt: skip
            if self.plan.clusters:
                arrays["clusters"], entry["ablation"] = leave_clusters_out(
                    self.model, self.processor, self.benchmark, sample, self.plan.clusters, self.max_new_tokens,
                    seed=self.seed, batch_size=self.plan.batch_size,
                )  # fmt: skip
            found.append({**entry, "file": self.store.save(f"sample-{len(found):02d}.npz", **arrays)})
        return found

    def _truncation(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return truncation_sweep(
            self.model, self.processor, self.benchmark, samples, self.store, layers=self.plan.layers,
            tolerance=self.plan.tolerance, max_new_tokens=self.max_new_tokens, batch_size=self.plan.batch_size,
            seed=self.seed,
        )  # fmt: skip


def sink_share(flow: Flow) -> Tensor:
    """``(N, H)`` share of the visual tokens that are sinks, 0 to 1; the threshold scales with the sample's length."""
    counts = sink_counts(flow.received, SINK_THRESHOLD / flow.length)
    return counts / max(flow.received.shape[-1], 1)


def _reduced(sample: Sample, flow: Flow) -> _Reduced:
    cover = needed_cover(sample.needed, flow.grids)
    on_needed = torch.full((len(MAPS), len(flow.layers)), torch.nan, dtype=torch.float64)
    if cover is not None and flow.cam is not None and flow.saliency is not None:
        maps = torch.stack([flow.cam, flow.attention.mean(dim=1), flow.saliency]).double()
        on_needed = (maps @ cover) / maps.sum(dim=-1)
    return _Reduced(
        sample_id=sample.sample_id,
        group=sample.group_id,
        layers=flow.layers,
        shares=flow.shares,
        even=flow.even,
        image_by_head=flow.attention.sum(dim=-1),
        sinks=sink_share(flow),
        on_needed=on_needed,
        needed_area=float("nan") if cover is None else float(cover.mean()),
    )


def _intervals(values: Tensor, groups: Sequence[str], seed: int) -> np.ndarray:
    """``(3, ...)`` mean and ends of its 95% interval over groups, for every entry of ``values`` ``(S, ...)``.

    Samples without a value are left out of an entry; an entry without any has NaN.
    """
    flat = values.double().flatten(1)
    found = np.full((3, flat.shape[1]), np.nan)
    for column, entries in enumerate(flat.T.tolist()):
        known = [(entry, group) for entry, group in zip(entries, groups, strict=True) if not math.isnan(entry)]
        if known:
            estimate = cluster_interval(*zip(*known, strict=True), num_resamples=2000, seed=seed)
            found[:, column] = [math.nan if number is None else number for number in estimate]
    return found.reshape(3, *values.shape[1:])


def _ids(samples: Sequence[Sample]) -> list[str]:
    return [sample.sample_id for sample in samples]
