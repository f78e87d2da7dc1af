"""The command on a file system that really fills up: a small tmpfs, mounted where nobody else sees it. Slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_simignore.metrics.records import read_run

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ("unshare", "--user", "--map-root-user", "--mount")
SCRIPT = """
set -u
mount -t tmpfs -o size=48k none "$1"
shift; small="$1"; out="$2"; shift 2
"$@"; echo $? > "$out/first"
cp -r "$small/run" "$out/then"
mount -o remount,size=16m "$small"
"$@"; echo $? > "$out/second"
cp -r "$small/run" "$out/now"
"""


def may_mount(folder: Path) -> bool:
    try:
        done = subprocess.run([*PRIVATE, "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_finishes_once_there_is_room(tmp_path: Path) -> None:
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    out.mkdir()
    if not may_mount(small):
        pytest.skip("this user may not mount a tmpfs of their own")
    command = [
        sys.executable, "eval.py", f"run.dir={small}", "run.name=run", "methods=[baseline,stride]",
        "benchmark.limit=40", "trainer.accelerator=cpu", "trainer.progress=false",
        "efficiency.samples=0", "report.samples=0",
    ]  # fmt: skip
    script = [*PRIVATE, "bash", "-c", SCRIPT, "bash", str(small), str(small), str(out), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    print(done.stdout[-3000:], done.stderr[-3000:])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "predictions-0001-r00000.jsonl: No space left on device; what was computed before is kept" in errors[0]
    assert "Traceback" not in done.stderr
    assert [(out / name).read_text().strip() for name in ("first", "second")] == ["1", "0"]
    before, after = read_run(out / "then").predictions, read_run(out / "now").predictions
    assert 0 < len(before) < 80
    assert len(after) == 80
    assert {key: after[key] for key in before} == before
    summary = json.loads((out / "now" / "summary.json").read_text())
    assert [row["n"] for row in summary["methods"]] == [40, 40]
