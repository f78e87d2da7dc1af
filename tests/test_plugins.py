"""A user's own files count as if they were part of the package, whatever is wrong with them is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import lit_simignore as ls
from lit_simignore import cli
from lit_simignore.engine.fingerprint import method_identity
from lit_simignore.plugins import VARIABLE, add_plugins, plugin_digest
from lit_simignore.pruning import PRUNERS
from lit_simignore.pruning.base import Features
from lit_simignore.types import Method, UserError

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[[str, str], Path]
Printed = pytest.CaptureFixture[str]

PRUNER = """
from dataclasses import dataclass
from lit_simignore.pruning.base import ScorePruner

@dataclass(kw_only=True)
class {name}(ScorePruner):
    def score(self, features):
        return features.visual[:, 0]
"""


def documented() -> tuple[str, str]:
    """Path below the package, and code, of the pruner that the documentation shows."""
    text = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    found = re.search(r'```python title="mine/(pruning/\w+\.py)"\n(.*?)```', text, re.DOTALL)
    assert found is not None, "docs/add-a-method.md shows how to write a pruner"
    return found[1], found[2]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file of a plugin folder, and returns that folder. Afterwards nothing is left of it."""
    monkeypatch.setenv(VARIABLE, "")
    folder = tmp_path / "mine"

    def put(name: str, code: str) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
        return folder

    yield put
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
            delattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2])
    vars(ls).pop("Centre", None)


def refused(write: Write, name: str, code: str, capsys: Printed) -> str:
    folder = write(name, code)
    assert cli.eval_main([f"plugins={folder}", "--help"]) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_the_documented_pruner_is_short_and_is_found_by_help_and_from_python(write: Write, capsys: Printed) -> None:
    path, code = documented()
    assert len(code.splitlines()) < 40
    folder = write(path, code)
    assert "Centre" not in dir(ls)
    assert cli.eval_main(["--help", f"plugins={folder}"]) == 0
    assert "\ncentre: " in capsys.readouterr().out
    features = Features(visual=torch.zeros(15, 2), text=torch.zeros(1, 2), grids=((3, 5),))
    assert ls.Centre(num_keep=1).choose(features).kept.tolist() == [7], "the middle of three rows of five"
    assert list(PRUNERS()) == sorted(PRUNERS()), "sorted together with what the package holds"


def test_the_documented_pruner_runs_from_the_command_line(write: Write, tmp_path: Path) -> None:
    if not (ROOT / "lit_simignore" / "assets" / "pico" / "config.json").is_file():
        pytest.skip("the bundled model is not trained yet")
    folder = write(*documented())
    argv = [
        f"plugins={folder}", "methods=[baseline,centre@num_keep=36]", "benchmark.limit=2", f"run.dir={tmp_path}",
        "run.name=run", "efficiency.samples=0", "report.samples=1", "trainer.accelerator=cpu", "trainer.progress=false",
    ]
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "eval.py", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^centre@num_keep=36 .* 36(\.0)? ", done.stdout, re.MULTILINE)
    assert "plugins" not in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_processes_find_the_same_plugin(write: Write, tmp_path: Path) -> None:
    folder = write(*documented())
    argv = [
        f"plugins={folder}", "methods=[centre@num_keep=36]", "benchmark.limit=4", f"run.dir={tmp_path}",
        "efficiency.samples=0", "report.samples=0", "trainer.accelerator=cpu", "trainer.progress=false",
        "trainer.devices=2",
    ]
    done = subprocess.run([sys.executable, "eval.py", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_plugin_passes_the_contract_suite_where_it_lies(write: Write) -> None:
    folder = write(*documented())
    command = [sys.executable, "-m", "pytest", "-q", "tests/contracts/test_pruners.py", "-k", "centre"]
    environment = {**os.environ, VARIABLE: str(folder)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_changed_code_is_another_method(write: Write) -> None:
    add_plugins(write("pruning/first_column.py", PRUNER.format(name="FirstColumn")))
    method = Method("first", (PRUNERS()["first_column"](num_keep=3),))
    before = method_identity(method)
    assert before == method_identity(method)
    write("pruning/first_column.py", PRUNER.format(name="FirstColumn").replace("[:, 0]", "[:, 1]"))
    changed = method_identity(method)
    assert changed != before
    write("pruning/_shared.py", "VALUE = 3\n")
    assert method_identity(method) not in (before, changed), "files beside it may be what it imports"
    assert plugin_digest(PRUNERS()["stride"]) is None


def test_a_plugin_added_after_the_first_scan_is_found_and_adding_it_twice_is_nothing(write: Write) -> None:
    assert "late" not in PRUNERS()
    folder = write("pruning/late.py", PRUNER.format(name="Late"))
    add_plugins(folder)
    add_plugins(str(folder))
    assert "late" in PRUNERS()
    assert os.environ[VARIABLE] == str(folder)


def test_a_benchmark_and_a_family_are_found_too(write: Write) -> None:
    from lit_simignore.benchmarks import BENCHMARKS
    from lit_simignore.surgery.families import FAMILIES, family_of

    write("benchmarks/mine.py", "from lit_simignore.benchmarks.base import Benchmark\nclass Mine(Benchmark): pass\n")
    family = "from lit_simignore.surgery.families.llava import Llava\nclass Wide(Llava):\n    model_types = ('{}',)\n"
    add_plugins(write("families/wide.py", family.format("wide")))
    assert "mine" in BENCHMARKS()
    assert type(family_of(type("Config", (), {"model_type": "wide"})())) is FAMILIES()["wide"]


def test_a_family_that_takes_another_s_models_is_refused(write: Write) -> None:
    from lit_simignore.surgery.families import family_of

    code = "from lit_simignore.surgery.families.base import Family\nclass Mine(Family):\n    model_types = ('llava',)\n"
    add_plugins(write("families/mine.py", code))
    with pytest.raises(UserError, match="Llava and Mine both handle model type 'llava'"):
        family_of(type("Config", (), {"model_type": "llava"})())


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("pruning/two.py", PRUNER.format(name="One") + PRUNER.format(name="Two"), "exactly one Pruner, found One, Two"),
        ("pruning/none.py", "x = 1\n", "exactly one Pruner, found none"),
        ("pruning/broken.py", "def f(:\n", "broken.py, line 1: invalid syntax"),
        ("pruning/broken.py", "import no_such_package\n", "broken.py: ModuleNotFoundError: No module named"),
        ("pruning/stride.py", PRUNER.format(name="Mine"), "there is a 'stride' already"),
        ("pruning/base.py", "", "there is a 'base' already"),
        ("pruning/mine.py", PRUNER.format(name="Stride"), "mine and stride both define Stride"),
        ("pruning/my-own.py", PRUNER.format(name="Mine"), "use letters, digits and _ only"),
        ("elsewhere/mine.py", PRUNER.format(name="Mine"), "which holds none of them"),
    ],
)
def test_a_bad_plugin_is_one_line(name: str, code: str, words: str, write: Write, capsys: Printed) -> None:
    assert words in refused(write, name, code, capsys)


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: Printed) -> None:
    assert cli.eval_main([f"plugins={tmp_path}/none", "--help"]) == 2
    assert "which is no folder" in capsys.readouterr().err
    assert cli.eval_main(["plugins="]) == 2
    assert "expected a value after plugins=" in capsys.readouterr().err


def test_no_file_can_name_code(write: Write, tmp_path: Path, capsys: Printed) -> None:
    folder = write("pruning/late.py", PRUNER.format(name="Late"))
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"plugins: {folder}\nmethods: [baseline]\n", encoding="utf-8")
    assert cli.eval_main(["--cfg", f"experiment={overlay}"]) == 2
    assert "taken from the command line only; remove it from" in capsys.readouterr().err
    assert "late" not in PRUNERS()
    assert cli.eval_main(["--cfg", f"experiment={overlay}", f"plugins={folder}"]) == 2
