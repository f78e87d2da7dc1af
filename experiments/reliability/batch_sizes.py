"""How many answers change with the batch size: the same questions in batches of 1, 4, 16 and 64, in two number formats.

    python experiments/reliability/batch_sizes.py --write

Rows of a batch are padded and matrices have other shapes, so sums are rounded in another order. In float32 no answer
should change; in bfloat16 near ties fall to the other side. Outputs are compared, not only scores.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from lit_simignore import cli
from lit_simignore.metrics.compare import Comparison, compare

HERE = Path(__file__).resolve().parent
METHODS = ("baseline", "simignore", "fastv")
DTYPES = ("float32", "bfloat16")
SIZES = (1, 4, 16, 64)


def answer(folder: Path, model: str, dtype: str, size: int, samples: int) -> Path:
    """One evaluation; its run folder."""
    run = folder / f"{dtype}-{size}"
    code = cli.eval_main(
        [
            f"model={model}", f"model.dtype={dtype}", f"trainer.batch_size={size}", f"benchmark.limit={samples}",
            f"methods=[{','.join(METHODS)}]", "trainer.accelerator=auto", "trainer.progress=false",
            "efficiency.samples=0", "report.samples=0", f"run.dir={folder}", f"run.name={run.name}",
        ]
    )  # fmt: skip
    if code:
        sys.exit(f"the run in {run} ended with {code}")
    return run


def line(dtype: str, size: int, method: str, found: Comparison) -> str:
    changed = found.num_pairs - found.same_output
    return (
        f"| {dtype} | {method} | {size} | {100 * found.score_b:.1f} | {changed} of {found.num_pairs} | "
        f"{found.fixed}/{found.broken} | {found.p_value:.3f} |"
    )


def table(folder: Path, model: str, samples: int) -> str:
    """Every batch size against one sample at a time, same number format and method."""
    lines = [
        "| format | method | batch | right, % | other text than alone | fixed/broken | p |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype in DTYPES:
        runs = {size: answer(folder, model, dtype, size, samples) for size in SIZES}
        for method in METHODS:
            for size in SIZES:
                lines.append(line(dtype, size, method, compare(runs[SIZES[0]], runs[size], method, method)))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pico")
    parser.add_argument("--samples", type=int, default=300, help="questions (default %(default)s)")
    parser.add_argument("--write", nargs="?", const=HERE / "batch_sizes.md", type=Path, help="also into this file")
    wish = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = table(Path(folder), wish.model, wish.samples)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    page = (
        f"{wish.model}, {wish.samples} questions, {device}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}.\n\n{found}\n"
    )
    print(page)
    if wish.write is not None:
        wish.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
