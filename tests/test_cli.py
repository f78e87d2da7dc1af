"""The two commands: what they print, and with which exit code they end. The engine itself is tested elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lit_simignore import cli
from lit_simignore.config.evaluation import compose_evaluation
from lit_simignore.pico.config import Alignment, PicoConfig
from lit_simignore.types import UserError

Printed = pytest.CaptureFixture[str]


def raising(error: BaseException) -> Callable[..., None]:
    def stop(*_: object) -> None:
        raise error

    return stop


def interrupted_by_lightning() -> BaseException:
    """Lightning's Trainer answers Ctrl-C with ``sys.exit(1)`` inside its ``except KeyboardInterrupt``."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 - the implicit context is the point
    except SystemExit as error:
        return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no\n such  model"), 1, "error: no such model\n"),
        (RuntimeError("sizes differ"), 1, "error: RuntimeError: sizes differ (--traceback shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues\n"),
        (interrupted_by_lightning(), 130, "interrupted; the same command continues\n"),
        (SystemExit(143), 143, "terminated; the same command continues\n"),
        (SystemExit(), 143, "terminated; the same command continues\n"),
        (SystemExit(5), 5, ""),
    ],
    ids=repr,
)
def test_a_failure_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.setattr(cli, "_evaluate", raising(error))
    assert cli.eval_main([]) == code
    assert capsys.readouterr() == ("", line)


def test_traceback_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.setattr(cli, "_evaluate", raising(UserError("no such model")))
    assert cli.eval_main(["--traceback"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: no such model\n")


def test_other_processes_say_who_they_are(monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.setattr(cli, "_evaluate", raising(UserError("no such model")))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.eval_main([]) == 1
    assert capsys.readouterr().err == "[rank 1] error: no such model\n"


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantized_weights_need_a_package_and_a_gpu(
    bits: str, installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: Printed, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert cli.train_main([f"model.quantization={bits}", f"run.dir={tmp_path / 'runs'}"]) == 1
    expected = "needs a GPU, and none is here" if installed else "needs bitsandbytes: pip install -e '.[gpu]'"
    err = capsys.readouterr().err
    assert err.startswith(f"error: model.quantization={bits} {expected}") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("main", "argv", "words"),
    [
        (cli.eval_main, ["trainer.devics=2"], "error: trainer.devics: unknown key; did you mean 'devices'?"),
        (cli.eval_main, ["methods=[simignor]"], "error: methods: unknown method 'simignor'"),
        (cli.eval_main, ["--nonsense"], "error: expected key=value, got '--nonsense'"),
        (cli.train_main, ["task=finetun"], "error: task: unknown task 'finetun'; did you mean 'finetune'"),
        (cli.train_main, ["pico.stps=3"], "error: pico.stps: unknown key; did you mean 'steps'"),
        (cli.train_main, ["training.stps=3"], "error: training.stps: unknown key; did you mean 'steps'"),
        (cli.train_main, ["tuning.kind=most"], "error: tuning.kind: expected one of lora, projector, full"),
        (cli.train_main, ["training.steps=0"], "error: training.steps: expected at least 1, got 0"),
        (cli.train_main, ["data.source=conversations"], "error: data.path: expected a file of conversations"),
        (cli.train_main, ["data.source=benchmark"], "error: data.benchmark: expected the name of a benchmark"),
        (cli.train_main, ["pruning=simignor"], "error: methods: unknown method 'simignor'"),
        (
            cli.train_main,
            ["benchmark=scienceqa", "validation.every=5"],
            "error: validation.benchmark: expected what makes the validation differ from the test",
        ),
    ],
)
def test_bad_configuration_ends_with_two_before_anything_runs(
    main: Callable[[list[str]], int], argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.setattr(cli, "_evaluate", raising(AssertionError("must not run")))
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_the_chosen_logger_gets_the_summary(tmp_path: Path, capsys: Printed) -> None:
    asked = compose_evaluation(["logger=csv", f"run.dir={tmp_path}", "run.name=r"])
    cli._log(asked, {"run": {}, "methods": [{"name": "baseline", "accuracy": 0.625}]}, cli._stream(asked))
    lines = (tmp_path / "r" / "metrics.csv").read_text().splitlines()
    assert dict(zip(lines[0].split(","), lines[1].split(","), strict=True))["accuracy"] == "0.625"
    assert "logged: csv" in capsys.readouterr().out


def test_cfg_prints_the_resolved_configuration_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Printed, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "_evaluate", raising(AssertionError("must not run")))
    assert cli.eval_main(["--cfg", "benchmark.limit=3", "methods=[baseline,simignore@num_keep=9]"]) == 0
    printed = capsys.readouterr().out
    config = OmegaConf.to_container(OmegaConf.create(printed))
    assert config["benchmark"]["limit"] == 3
    assert config["method"] == {"baseline": {}, "simignore": {"simignore": {"keep_ratio": 0.5}}}
    saved = tmp_path / "saved.yaml"
    saved.write_text(printed, encoding="utf-8")
    assert cli.eval_main(["--cfg", f"experiment={saved}"]) == 0
    assert capsys.readouterr().out == printed


def test_training_the_bundled_model_takes_the_recipe_s_keys(monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    import lit_simignore.pico.train as pico

    asked: list[PicoConfig] = []
    monkeypatch.setattr(pico, "train", lambda config: asked.append(config) or Path(config.output) / "model")
    assert cli.train_main(["experiment=pico-unaligned", "pico.steps=7"]) == 0
    assert asked == [PicoConfig(alignment=Alignment.PROBE, output="runs/pico-unaligned", steps=7, decay_steps=800)]
    assert capsys.readouterr().out == f"model: {Path('runs/pico-unaligned/model')}\n"


def record(sample: int, method: str, score: float) -> Mapping[str, object]:
    return {"sample_id": f"s{sample}", "method": method, "answer": "A", "output": f"{score}", "score": score}


def test_compare_pairs_two_saved_runs(tmp_path: Path, capsys: Printed) -> None:
    for name, scores in {"a": (1, 0, 0, 1), "b": (1, 1, 1, 1)}.items():
        rows = [record(i, method, score) for i, score in enumerate(scores) for method in ("baseline", "simignore")]
        (tmp_path / name).mkdir()
        text = "\n".join(map(json.dumps, rows)) + "\n"
        (tmp_path / name / "predictions-1.jsonl").write_text(text, encoding="utf-8")
    a, b = tmp_path / "a", tmp_path / "b"
    assert cli.eval_main([f"compare=[{a}:simignore,{b}:simignore]"]) == 0
    out = capsys.readouterr().out
    assert "simignore against simignore: 4 paired samples" in out
    assert "50.00 % -> 100.00 %" in out
    assert cli.eval_main([f"compare=[{a},{b}:nothing]"]) == 1
    assert "FOLDER:METHOD" in capsys.readouterr().err
    assert cli.eval_main([f"compare=[{a},{tmp_path / 'c'}]"]) == 1


def test_a_method_s_name_may_hold_colons_and_so_may_a_folder_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b:c"):
        Path(name).mkdir()
    assert cli._run_and_method("a:fastv@layer_mean:192") == ("a", "fastv@layer_mean:192")
    assert cli._run_and_method("b:c") == ("b:c", None)
    assert cli._run_and_method("b:c:simignore") == ("b:c", "simignore")
    assert cli._run_and_method("none:simignore") == ("none", "simignore")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A small run of the bundled model, and the arguments that made it."""
    if not (Path(cli.__file__).parent / "assets" / "pico" / "config.json").is_file():
        pytest.skip("the bundled model is not trained yet")
    runs = tmp_path_factory.mktemp("runs")
    argv = [
        f"run.dir={runs}", "run.name=one", "methods=[baseline,simignore]", "benchmark.limit=3", "efficiency.samples=0",
        "report.samples=1", "trainer.batch_size=2", "trainer.progress=false", "trainer.accelerator=cpu",
    ]
    assert cli.eval_main(argv) == 0
    return runs / "one", argv


def test_a_run_prints_the_table_and_says_where_the_report_is(finished: tuple[Path, list[str]], capsys: Printed) -> None:
    folder, argv = finished
    before = sorted(path.name for path in folder.glob("predictions-*"))
    assert cli.eval_main(argv) == 0
    out = capsys.readouterr().out
    assert "\nbaseline " in out
    assert "\nsimignore " in out
    assert out.endswith(f"report: {folder / 'report.html'}\n")
    assert (folder / "report.html").is_file()
    assert sorted(path.name for path in folder.glob("predictions-*")) == before, "nothing was left to compute"


def test_a_run_saves_the_configuration_that_gives_it_again(finished: tuple[Path, list[str]], capsys: Printed) -> None:
    folder, argv = finished
    capsys.readouterr()
    assert cli.eval_main(["--cfg", f"experiment={folder / 'config.yaml'}"]) == 0
    assert capsys.readouterr().out == (folder / "config.yaml").read_text(encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["run"]["model"], summary["run"]["benchmark"]) == ("pico", "shapesqa")
    assert [method["name"] for method in summary["methods"]] == ["baseline", "simignore"]


def test_another_run_in_the_same_folder_is_refused_and_leaves_its_configuration_alone(
    finished: tuple[Path, list[str]], capsys: Printed
) -> None:
    folder, argv = finished
    saved = (folder / "config.yaml").read_text(encoding="utf-8")
    assert cli.eval_main([*argv, "method.simignore.keep_ratio=0.25"]) == 1
    assert "holds another run" in capsys.readouterr().err
    assert (folder / "config.yaml").read_text(encoding="utf-8") == saved


def test_every_setting_reaches_the_engine() -> None:
    argv = [
        "trainer.devices=2", "trainer.strategy=ddp", "trainer.batch_size=3", "trainer.max_new_tokens=4", "seed=5",
        "trainer.on_error=raise", "trainer.timeout_hours=1", "overwrite=true", "report.samples=6",
        "trainer.precision=bf16-mixed", "trainer.num_workers=1", "trainer.num_nodes=2", "trainer.progress=false",
        "efficiency.repeats=7",
    ]
    settings = cli.evaluation_settings(compose_evaluation(argv))
    expected = {
        "devices": 2, "strategy": "ddp", "batch_size": 3, "max_new_tokens": 4, "seed": 5, "on_error": "raise",
        "timeout_hours": 1.0, "overwrite": True, "report_samples": 6, "precision": "bf16-mixed", "num_workers": 1,
        "num_nodes": 2, "progress": False, "model_name": "pico", "benchmark_name": "shapesqa",
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.efficiency is not None
    assert (settings.efficiency.samples, settings.efficiency.repeats) == (16, 7)
    assert cli.evaluation_settings(compose_evaluation(["efficiency.samples=0"])).efficiency is None


def test_a_missing_adapter_is_one_line(finished: tuple[Path, list[str]], capsys: Printed, tmp_path: Path) -> None:
    _, argv = finished
    assert cli.eval_main([*argv, f"model.adapter={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert "error: cannot put the adapter" in err
