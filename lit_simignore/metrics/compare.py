"""Two methods on the same samples: what changed, and whether the change is more than luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from lit_simignore.discovery import nearest
from lit_simignore.metrics.records import Run, RunSource, read_run
from lit_simignore.metrics.statistics import Estimate, cluster_bootstrap, mcnemar_exact
from lit_simignore.types import Prediction, UserError

BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample under both methods. Scores are fractions, 0 to 1."""

    sample_id: str
    group_id: str
    kind: str
    answer: str | None
    output_a: str
    output_b: str
    score_a: float
    score_b: float

    @property
    def fixed(self) -> bool:
        """Whether the second method scores higher."""
        return self.score_b > self.score_a

    @property
    def broken(self) -> bool:
        """Whether the second method scores lower."""
        return self.score_b < self.score_a


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired comparison of method b with method a. Scores are fractions, 0 to 1.

    Args:
        method_a: the method compared against.
        method_b: the method compared.
        num_pairs: samples that both methods have a score for; everything down to ``flips`` is over these.
        num_groups: independent groups among them.
        score_a: mean score of method a.
        score_b: mean score of method b.
        difference: ``score_b - score_a`` with a cluster-bootstrap interval.
        level: confidence level of the interval.
        fixed: samples that b scores higher than a.
        broken: samples that b scores lower than a.
        p_value: exact McNemar test of fixed against broken (for partial scores: the sign test).
        same_output: pairs with the same text, character for character.
        flips: the fixed and broken samples, in order of sample id.
        only_a: samples that only a has.
        only_b: samples that only b has.
        unscored: samples that both have but at least one has no score for (an error, or no known answer).
        duplicates: records replaced by a later one of the same sample and method, in both runs.
        conflicts: those among them with another output.
        torn: cut last lines that were skipped, in both runs.
    """

    method_a: str
    method_b: str
    num_pairs: int
    num_groups: int
    score_a: float
    score_b: float
    difference: Estimate
    level: float
    fixed: int
    broken: int
    p_value: float
    same_output: int
    flips: tuple[Pair, ...]
    only_a: int
    only_b: int
    unscored: int
    duplicates: int
    conflicts: int
    torn: int

    def __str__(self) -> str:
        value, low, high = self.difference
        interval = (
            "no interval: one group"
            if low is None or high is None
            else f"{self.level:.0%} interval {100 * low:+.2f} to {100 * high:+.2f}"
        )
        lines = [
            f"{self.method_b} against {self.method_a}: {self.num_pairs} paired samples in {self.num_groups} groups",
            f"  score     {100 * self.score_a:.2f} % -> {100 * self.score_b:.2f} %"
            f" ({100 * value:+.2f} points, {interval})",
            f"  flips     {self.fixed} fixed, {self.broken} broken, exact McNemar p = {self.p_value:.2g}",
            f"  outputs   {self.same_output} of {self.num_pairs} identical",
        ]
        left_out = self._left_out()
        return "\n".join(lines + ([f"  left out  {left_out}"] if left_out else []))

    def _left_out(self) -> str:
        counts = {
            f"only in {self.method_a}": self.only_a,
            f"only in {self.method_b}": self.only_b,
            "without a score": self.unscored,
            f"duplicate records ({self.conflicts} with another output)": self.duplicates,
            "torn lines": self.torn,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def compare(
    run_a: RunSource,
    run_b: RunSource,
    method_a: str | None = None,
    method_b: str | None = None,
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two methods sample by sample.

    Args:
        run_a: a run folder, a ``.jsonl`` file of predictions, or records in memory.
        run_b: the same; may be the same run.
        method_a: a method of ``run_a``; by default its only one, else ``baseline``.
        method_b: a method of ``run_b``; by default its only one, else the only one beside the baseline.
        level: confidence of the interval.
        num_resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The comparison over the samples that both have a score for; what was left out is counted. Groups are
        those of ``run_a``; a sample without one is a group of its own.

    Raises:
        UserError: no records, an unknown or ambiguous method, no sample in common, or runs that disagree on the
            right answer of a sample.
    """
    merged_a = read_run(run_a)
    # A one-shot iterable cannot be read twice, and a run compared with itself need not be.
    merged_b = merged_a if run_b is run_a else read_run(run_b)
    name_a = _pick(merged_a, method_a, prefer_baseline=True)
    name_b = _pick(merged_b, method_b, prefer_baseline=False)
    records_a, records_b = merged_a.of(name_a), merged_b.of(name_b)
    common = sorted(records_a.keys() & records_b.keys())
    _check_same_data(common, records_a, records_b)
    pairs = [pair for key in common if (pair := _pair(records_a[key], records_b[key]))]
    if not pairs:
        raise UserError(
            f"nothing to compare: {name_a} has {len(records_a)} samples, {name_b} has {len(records_b)}, "
            f"{len(common)} in common, none with a score from both"
        )
    runs = (merged_a,) if merged_b is merged_a else (merged_a, merged_b)
    scores_a, scores_b = [pair.score_a for pair in pairs], [pair.score_b for pair in pairs]
    groups = [pair.group_id for pair in pairs]
    fixed, broken = sum(pair.fixed for pair in pairs), sum(pair.broken for pair in pairs)
    return Comparison(
        method_a=name_a,
        method_b=name_b,
        num_pairs=len(pairs),
        num_groups=len(set(filter(None, groups))) + groups.count(""),
        score_a=fmean(scores_a),
        score_b=fmean(scores_b),
        difference=cluster_bootstrap(scores_a, scores_b, groups, level=level, num_resamples=num_resamples, seed=seed),
        level=level,
        fixed=fixed,
        broken=broken,
        p_value=mcnemar_exact(fixed, broken),
        same_output=sum(pair.output_a == pair.output_b for pair in pairs),
        flips=tuple(pair for pair in pairs if pair.fixed or pair.broken),
        only_a=len(records_a) - len(common),
        only_b=len(records_b) - len(common),
        unscored=len(common) - len(pairs),
        duplicates=sum(run.duplicates for run in runs),
        conflicts=sum(run.conflicts for run in runs),
        torn=sum(run.torn for run in runs),
    )


def _pick(run: Run, method: str | None, prefer_baseline: bool) -> str:
    if method is not None:
        if method not in run.methods:
            raise UserError(f"the run has no method {method!r}; {nearest(method, run.methods)}")
        return method
    if len(run.methods) == 1:
        return run.methods[0]
    others = [name for name in run.methods if name != BASELINE]
    if prefer_baseline and BASELINE in run.methods:
        return BASELINE
    if not prefer_baseline and len(others) == 1:
        return others[0]
    which = "method_a" if prefer_baseline else "method_b"
    raise UserError(f"say which method to compare with {which}=...; the run has {', '.join(run.methods) or 'none'}")


def _check_same_data(
    common: list[str], records_a: Mapping[str, Prediction], records_b: Mapping[str, Prediction]
) -> None:
    differing = [key for key in common if records_a[key].answer != records_b[key].answer]
    if differing:
        raise UserError(
            f"the runs disagree on the right answer of {len(differing)} samples (first: {differing[0]!r}); "
            "compare runs of one benchmark and one version of its data"
        )


def _pair(a: Prediction, b: Prediction) -> Pair | None:
    if a.score is None or b.score is None or a.error is not None or b.error is not None:
        return None
    return Pair(
        sample_id=a.sample_id,
        group_id=a.group_id,
        kind=a.kind,
        answer=a.answer,
        output_a=a.output,
        output_b=b.output,
        score_a=float(a.score),
        score_b=float(b.score),
    )
