"""``python -m lit_simignore.sweep``: what is refused, what is printed, and what a job is given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_simignore.sweep import __main__ as command
from lit_simignore.sweep.__main__ import main
from lit_simignore.sweep.bayes import Bayes
from lit_simignore.sweep.definition import read_sweep
from lit_simignore.sweep.ledger import Ledger
from lit_simignore.sweep.metric import metric_of
from lit_simignore.sweep.plan import Outcome, make_plan
from tests.report.fake_run import STANDARD, build_run
from tests.sweep.fake_sweep import build_sweep

Printed = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
GRID = {
    "program": "eval.py", "method": "grid",
    "parameters": {"budget": {"values": [9, 18]}, "model": {"value": "pico"}, "logger": {"value": "wandb"}},
}  # fmt: skip
BAYES = {
    "program": "train.py", "method": "bayes", "run_cap": 40,
    "metric": {"name": "validation/simignore/accuracy", "goal": "maximize"},
    "parameters": {
        "training.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "tuning.rank": {"values": [4, 8, 16]},
        "training.steps": {"distribution": "q_uniform", "min": 10, "max": 95, "q": 10},
        "seed": {"min": 0, "max": 9},
        "pruning": {"value": "simignore"},
    },
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return written(tmp_path, GRID)


def written(folder: Path, content: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_help_names_every_option(capsys: Printed) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    words = ["workers", "gpus-per-job", "count", "seed", "name", "dir", "retry", "summary", "cfg", "traceback"]
    assert [word for word in words if f"  --{word}" not in out] == []


def test_cfg_prints_the_jobs_and_runs_none(file: Path, capsys: Printed) -> None:
    assert main([str(file), "--cfg", "benchmark.limit=5", "logger=none"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"python eval.py --budget={budget} --model=pico --logger=wandb benchmark.limit=5 logger=none"
        for budget in (9, 18)
    ]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, "error: expected a sweep file, or --summary and the folder of a sweep"),
        (["FILE", "--summary", "x"], 2, "error: expected a sweep file, or --summary"),
        (["FILE", "budget=3"], 2, "error: budget: the sweep varies it"),
        (["FILE", "run.name=x"], 2, "error: run.name: cannot be part of a sweep"),
        (["FILE", "--workers", "0"], 2, "error: --workers: expected at least 1, got 0"),
        (["FILE", "--wrokers", "2"], 2, "error: unrecognized arguments: --wrokers"),
        (["FILE", "benchmark.limt=3"], 2, "error: job 000-"),
        (["missing.yaml"], 2, "error: missing.yaml: cannot be read as YAML"),
        (["--summary", "tests"], 1, "error: expected the folder of a sweep"),
    ],
)
def test_a_failure_is_one_line_before_anything_runs(
    argv: list[str], code: int, words: str, file: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_simignore.sweep.runner.subprocess.Popen", lambda *_, **__: pytest.fail("started"))
    assert main([str(file) if word == "FILE" else word for word in argv]) == code
    out, err = capsys.readouterr()
    assert err.startswith(words) and err.count("\n") == 1 and not out


def test_a_job_is_given_its_folder_its_group_and_what_stands_behind_the_file(
    file: Path, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def finished(command: list[str], **_: Any) -> Any:
        seen.append(command)
        given = dict(word.partition("=")[::2] for word in command[2:])
        build_run(Path(given["run.dir"]) / given["run.name"], methods=STANDARD[:2], num_samples=20, num_shown=0)
        return type("Process", (), {"pid": 2**22 + len(seen), "wait": lambda self: 0})()

    monkeypatch.setattr("lit_simignore.sweep.runner.subprocess.Popen", finished)
    monkeypatch.setattr("lit_simignore.sweep.runner._has_ended", lambda process: True)
    monkeypatch.setattr("lit_simignore.sweep.runner._reaped", lambda process: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([str(file), "--dir", str(tmp_path / "runs"), "--name", "mine", "logger=none"]) == 0
    folder = tmp_path / "runs" / "mine"
    assert [command[1:5] for command in seen] == [
        [str(ROOT / "eval.py"), f"--budget={budget}", "--model=pico", "--logger=wandb"] for budget in (9, 18)
    ]
    assert seen[0][5:8] == ["logger=none", "logger.group=mine", f"run.dir={folder}"]
    out = capsys.readouterr().out
    assert f"summary: {folder / 'sweep.html'}" in out and "2 of 2 jobs complete" in out
    assert main([str(file), "--dir", str(tmp_path / "runs"), "--name", "mine", "logger=none"]) == 0 and len(seen) == 2
    assert main([str(file), "--dir", str(tmp_path / "runs"), "--name", "mine"]) == 1
    assert "holds a sweep with another command" in capsys.readouterr().err


def test_the_summary_is_drawn_again_and_failed_jobs_are_no_success(tmp_path: Path, capsys: Printed) -> None:
    build_sweep(tmp_path / "s", complete=3, samples=20)
    assert main(["--summary", str(tmp_path / "s")]) == 0
    assert "3 of 9 jobs complete" in capsys.readouterr().out and (tmp_path / "s" / "sweep.html").is_file()


def test_a_group_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    sweep = read_sweep(written(tmp_path, GRID))
    options = command.read_options(["x.yaml", "logger.group=other"])
    assert command._group(sweep, options, "s") == []


def test_a_metric_is_read_by_the_name_under_which_it_is_logged(tmp_path: Path) -> None:
    build_run(tmp_path / "after", methods=STANDARD[:2], num_samples=50, num_shown=0, pictures=False)
    rows = json.loads((tmp_path / "after" / "summary.json").read_text())["methods"]
    assert metric_of("eval/simignore@72/accuracy", tmp_path) == rows[1]["accuracy"]
    assert metric_of("eval/simignore@72/prefill_ms", tmp_path) == rows[1]["efficiency"]["prefill_ms"]
    assert metric_of("eval/nobody/accuracy", tmp_path) is None
    lines = [{"step": step, "accuracy": {"simignore": step / 100, "baseline": None}} for step in (10, 20)]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert metric_of("validation/simignore/accuracy", tmp_path) == 0.2
    assert metric_of("validation/baseline/accuracy", tmp_path) is None
    assert metric_of("eval/x/accuracy", tmp_path / "none") is None


def test_bayes_finds_what_random_draws_would_not(tmp_path: Path) -> None:
    """On a known function the later proposals are better than the first, random ones; failures are no obstacle."""
    pytest.importorskip("optuna")
    plan = make_plan(read_sweep(written(tmp_path, BAYES)), None, 0)
    outcomes: list[Outcome] = []

    def worth(values: dict[str, Any]) -> float:
        return -abs(math.log10(values["training.lr"]) + 3) - (values["tuning.rank"] != 8)

    for index in range(plan.total):
        values = plan.values(index, outcomes)
        assert values == plan.values(index, outcomes)  # a killed runner asks again
        assert list(values) == list(BAYES["parameters"]) and values["pruning"] == "simignore"  # type: ignore[call-overload]
        assert 1e-5 <= values["training.lr"] <= 1e-1 and values["tuning.rank"] in (4, 8, 16)
        assert values["seed"] in range(10) and values["training.steps"] % 10 == 0
        outcomes.append((values, None if index % 7 == 3 else worth(values)))
    early, late = ([worth(values) for values, _ in part] for part in (outcomes[:10], outcomes[-10:]))
    assert sum(late) / 10 > sum(early) / 10 + 0.4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": None}, "metric: bayes needs the number it goes for"),
        ({"metric": {"name": "train/loss"}}, "metric.name: on this machine bayes reads eval/METHOD/NAME"),
        ({"run_cap": None}, "a bayes search has no end by itself"),
        ({"parameters": {"seed": {"distribution": "normal"}}}, "seed: bayes on this machine takes categorical"),
    ],
)
def test_what_bayes_cannot_do_here_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    pytest.importorskip("optuna")
    content = {key: value for key, value in {**BAYES, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=words):
        make_plan(read_sweep(written(tmp_path, content)), None, 0)


def test_without_optuna_bayes_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[sweeps\]'"):
        Bayes(read_sweep(written(tmp_path, BAYES)), None, 0)


def test_early_termination_is_said_to_be_left_out(
    tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_simignore.sweep.runner.Runner.run", lambda self: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = written(tmp_path, {**GRID, "early_terminate": {"type": "hyperband", "min_iter": 3}})
    assert main([str(file), "--dir", str(tmp_path)]) == 1  # nothing was run
    assert "early_terminate is left to W&B's server" in capsys.readouterr().out
    Ledger(tmp_path / tmp_path.name, patience_s=1).close()


def test_an_agents_job_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_simignore.config.evaluation import compose_evaluation

    usual = compose_evaluation([]).run_dir
    monkeypatch.setenv("WANDB_RUN_ID", "../r1")
    assert compose_evaluation([]).run_dir == usual  # somebody's own run, not an agent's
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert compose_evaluation([]).run_dir == Path("runs/s1/r1")
    assert compose_evaluation(["run.name=mine"]).run_dir == Path("runs/mine")
