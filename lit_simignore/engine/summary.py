"""From records to the numbers of a run: everything in the table, computed once, from what is on disk.

Nothing here depends on the order in which records were written, on how many processes wrote them, or on how often the
run was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.engine.memory import SPLIT
from lit_simignore.metrics.accuracy import accuracy, accuracy_by_kind
from lit_simignore.metrics.compare import BASELINE, Comparison, compare
from lit_simignore.metrics.records import Run
from lit_simignore.metrics.statistics import cluster_interval, holm, wilson_interval
from lit_simignore.types import Budget, Method, Prediction, Sample

LEVEL = 0.95
"""Confidence of every interval."""

_PAIRED = ("delta", "delta_low", "delta_high", "p_value", "p_holm", "fixed", "broken", "same_output")


def summarize(
    run: Run,
    samples: Sequence[Sample],
    benchmark: Benchmark,
    methods: Sequence[Method],
    *,
    about: Mapping[str, Any],
    efficiency: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The contents of ``summary.json``.

    Args:
        run: merged records; those of other samples or methods are left out.
        samples: the whole benchmark.
        benchmark: for its further metrics.
        methods: rows of the table, the baseline first.
        about: facts for the ``run`` section; ``num_samples`` and ``complete`` are added here.
        efficiency: measured cost by method.
        seed: of the bootstrap.

    Returns:
        ``{"run": {...}, "methods": [...]}`` with numbers, strings and nulls only. Shares are 0 to 1. A method is
        compared with the baseline on the samples that both have a score for; ``p_holm`` is corrected for all methods
        that are compared.
    """
    records = {method.name: _records(run, samples, method) for method in methods}
    rows = [_row(method.name, records[method.name], benchmark, seed) for method in methods]
    baseline = records.get(BASELINE, [])
    for row in rows:
        row |= dict.fromkeys(_PAIRED)
        if row["name"] != BASELINE:
            row |= _paired(baseline, records[row["name"]], seed)
        row["efficiency"] = _finite((efficiency or {}).get(row["name"]))
    _correct(rows)
    complete = all(len(found) == len(samples) for found in records.values())
    return {"run": {**about, "num_samples": len(samples), "complete": complete}, "methods": rows}


def _records(run: Run, samples: Sequence[Sample], method: Method) -> list[Prediction]:
    """One method's records in the order of the samples."""
    keys = [(sample.sample_id, method.name) for sample in samples]
    return [run.predictions[key] for key in keys if key in run.predictions]


def _row(name: str, records: Sequence[Prediction], benchmark: Benchmark, seed: int) -> dict[str, Any]:
    """One method by itself."""
    good = [record for record in records if record.error is None]
    n, mean = accuracy(record.score for record in good)
    low, high = _interval([record for record in good if record.score is not None], seed)
    kinds = accuracy_by_kind((record.kind, record.score) for record in good)
    return {
        "name": name,
        "n": n,
        "errors": len(records) - len(good),
        "unparsed": sum(record.parsed is None for record in good),
        "split": sum(SPLIT in record.extra for record in good),
        "accuracy": mean,
        "ci_low": low,
        "ci_high": high,
        "needed_recall": _mean(record.needed_recall for record in good),
        "needed_carried": _mean(record.needed_carried for record in good),
        "budget": _budget(good),
        "by_kind": {kind: found._asdict() for kind, found in kinds.items()},
        "extra": _finite(benchmark.aggregate(good)) if good else {},
    }


def _interval(scored: Sequence[Prediction], seed: int) -> tuple[float | None, float | None]:
    """Interval of the mean score: Wilson's for independent samples, a bootstrap over groups where samples share one.

    Where the bootstrap sees no spread (all groups alike) it would claim certainty; Wilson's interval with the number
    of groups as the number of samples then says how little is known. The same holds for a single group.
    """
    scores, groups = [float(record.score or 0.0) for record in scored], [record.group_id for record in scored]
    if not scores:
        return None, None
    num_groups = len(set(filter(None, groups))) + groups.count("")
    if num_groups < len(scores):
        _, low, high = cluster_interval(scores, groups, level=LEVEL, seed=seed)
        if low is not None and high is not None and low < high:
            return low, high
    return tuple(wilson_interval(num_groups * math.fsum(scores) / len(scores), num_groups, LEVEL))  # type: ignore[return-value]


def _paired(baseline: Sequence[Prediction], records: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """One method against the untouched model, on the same samples."""
    if not _have_pairs(baseline, records):
        return {}
    found: Comparison = compare(baseline, records, level=LEVEL, seed=seed)
    return {
        "delta": found.difference.value,
        "delta_low": found.difference.low,
        "delta_high": found.difference.high,
        "p_value": found.p_value,
        "fixed": found.fixed,
        "broken": found.broken,
        "same_output": found.same_output,
    }


def _have_pairs(baseline: Sequence[Prediction], records: Sequence[Prediction]) -> bool:
    def scored(rows: Sequence[Prediction]) -> set[str]:
        return {row.sample_id for row in rows if row.score is not None and row.error is None}

    return bool(scored(baseline) & scored(records))


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's correction over all comparisons of the table."""
    compared = [row for row in rows if row["p_value"] is not None]
    for row, corrected in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        row["p_holm"] = corrected


def _budget(records: Sequence[Prediction]) -> dict[str, float | None]:
    """Mean of every definition over the answered samples."""
    spent = [record.extra["budget"] for record in records if isinstance(record.extra.get("budget"), Mapping)]
    return {entry.name: _mean(_number(each, entry.name) for each in spent) for entry in fields(Budget)}


def _number(mapping: object, key: str) -> float | None:
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _finite(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same with null for what JSON cannot hold."""
    if values is None:
        return None
    return {str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()}  # fmt: skip
