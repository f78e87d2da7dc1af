"""What fine-tuning with pruning brought back of what pruning had taken, paired over the same samples."""

from __future__ import annotations

from pathlib import Path

from lit_simignore.engine.finetune import AFTER, BEFORE
from lit_simignore.metrics.compare import BASELINE, Comparison, compare


def verdict(run_dir: Path, pruned: str) -> str:
    """A few lines for the terminal.

    Args:
        run_dir: of a finished training that answered before and after.
        pruned: name of the method that prunes.
    """
    before, after = run_dir / BEFORE, run_dir / AFTER
    lost = compare(before, before, BASELINE, pruned)
    gained = compare(before, after, pruned, pruned)
    left = compare(before, after, BASELINE, pruned)
    dense = compare(before, after, BASELINE, BASELINE)
    lines = [
        f"{lost.num_pairs} held-out samples, {pruned}; differences in points with {lost.level:.0%} intervals, exact "
        "McNemar test:",
        _line("pruning took", lost, "dense before -> pruned before"),
        _line("training gave back", gained, "pruned before -> pruned after"),
        _line("still missing", left, "dense before -> pruned after"),
        _line("dense model", dense, "dense before -> dense after"),
        _sentence(lost, gained),
    ]
    return "\n".join(lines)


def _line(name: str, found: Comparison, what: str) -> str:
    value, low, high = found.difference
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    scores = f"{100 * found.score_a:5.1f} % -> {100 * found.score_b:5.1f} %"
    return f"  {name:<19} {scores}  {100 * value:+5.1f}{interval}, p = {found.p_value:.2g}   ({what})"


def _sentence(lost: Comparison, gained: Comparison) -> str:
    loss, gain = -lost.difference.value, gained.difference.value
    low = gained.difference.low
    if loss <= 0:
        return "Pruning took nothing here, so there is nothing to recover."
    share = f"{100 * gain / loss:.0f} % of what pruning took"
    if low is not None and low > 0:
        return f"Training with pruning recovers {share}."
    return f"No recovery can be told from luck here (point estimate: {share})."
