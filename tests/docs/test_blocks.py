"""Every block of the pages: run as a reader would, in an empty folder and offline, or, where it is marked, checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lit_simignore.plugins import VARIABLE
from tests.docs.commands import broken, command_lines, make_data
from tests.docs.names import broken_names
from tests.docs.pages import LANGUAGES, MARKS, PAGES, ROOT, Block, blocks
from tests.tiny_checkpoints import save_tiny_checkpoint

ALL = [block for page in PAGES for block in blocks(page)]
RUN = [page for page in PAGES if any(block.is_run for block in blocks(page))]
CHECKED = [block for block in ALL if block.is_checked]

GIVEN: dict[str, Callable[[Path], object]] = {
    "docs/your-model.md": lambda folder: save_tiny_checkpoint("llava", folder / "my-llava"),
}
"""What a reader of a page already has in the folder."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, no account; whoever asks for an address all the same is sent to a port where nobody answers."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def reader_folder(page: Path, folder: Path) -> Path:
    """An empty folder, but for the two commands and what the page says one has."""
    for name in ("eval.py", "train.py"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    given = GIVEN.get(page.relative_to(ROOT).as_posix())
    if given is not None:
        given(folder)
    return folder


def write(file: Block, folder: Path) -> None:
    """What ``reader.py`` does with a block that is a file."""
    path = folder / str(file.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text, encoding="utf-8")


def steps(page: Path) -> list[tuple[str, str, object]]:
    """What the reader does: ``reader.py`` says how."""
    files = [("file", str(block), (block.title, block.text)) for block in blocks(page) if block.is_file]
    return [*files, *((block.lang, str(block), block.text) for block in blocks(page) if block.is_run)]


def read_along(
    todo: list[tuple[str, str, object]], folder: Path, known: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Start a reader in ``folder``."""
    reader = [sys.executable, ROOT / "tests" / "docs" / "reader.py"]
    environment = {**os.environ, **known}
    return subprocess.run(
        reader, input=json.dumps(todo), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_says_can_be_done(page: Path, tmp_path: Path, offline: None) -> None:
    here = reader_folder(page, tmp_path)
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    known = {"PATH": os.pathsep.join(places), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    done = read_along(steps(page), here, known)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("block", [block for block in CHECKED if block.lang == "bash"], ids=str)
def test_a_command_that_is_not_run_here_would_be_understood(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], offline: None
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # whatever plugins= adds is gone afterwards
    for file in [other for other in ALL if other.page == block.page and other.is_file]:
        write(file, tmp_path)
    lines = list(command_lines(block.text))
    for words in lines:
        make_data(words, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = [complaint for words in lines if (complaint := broken(words))]
    assert found == [], capsys.readouterr().err


@pytest.mark.parametrize("block", [block for block in CHECKED if block.lang == "python"], ids=str)
def test_python_that_is_not_run_here_compiles_and_its_names_exist(block: Block) -> None:
    page = [other for other in ALL if other.page == block.page and other.lang == "python"]
    before = [other.text for other in page if other.line < block.line]
    imports = [line for text in before for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert broken_names("\n".join([*imports, block.text])) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_fences_say_only_what_is_known(page: Path) -> None:
    for block in blocks(page):
        assert block.lang, f"{block}: say what the block is: bash, python, text, yaml, ..."
        assert block.marks <= set(MARKS), f"{block}: expected {' or '.join(MARKS)}, got {sorted(block.marks)}"
        assert not block.marks or block.lang in LANGUAGES, f"{block}: only {' and '.join(LANGUAGES)} are run at all"


@pytest.mark.parametrize(
    "line",
    [
        "python eval.py model=llava-1.5-7b benchmark.nothing=1",
        "torchrun --nproc_per_node=8 eval.py methods=[baseline,simignor]",
        "HF_HOME=x srun python train.py pruning=nothing",
        "cd here && python3 no_such_file.py",
        "python -m lit_simignore.nothing",
        "lit-simignore-eval trainer.batch_size=many",
    ],
)
def test_a_command_line_that_would_be_refused_is_found(line: str) -> None:
    assert [complaint for words in command_lines(line) if (complaint := broken(words))]


@pytest.mark.parametrize(
    "code",
    [
        "import lit_simignore as ls\nls.Nothing()",
        "import lit_simignore as ls\nls.Simignore(num_kept=3)",
        "from lit_simignore.nothing import x",
        "from lit_simignore import Nothing",
        "import torch\ntorch.nothing(1)",
    ],
)
def test_python_with_names_that_do_not_exist_is_found(code: str) -> None:
    assert broken_names(code)


def test_the_reader_stops_at_the_first_block_that_fails(tmp_path: Path) -> None:
    todo: list[tuple[str, str, object]] = [
        ("file", "page:1", ("a/b.txt", "one")),
        ("python", "page:3", "name = open('a/b.txt').read()"),
        ("bash", "page:6", "test -f a/b.txt"),
        ("python", "page:9", "assert name == 'one'"),
        ("bash", "page:12", "false | cat"),
        ("bash", "page:15", "touch too-far"),
    ]
    done = read_along(todo, tmp_path, {})
    assert done.returncode == 1
    assert "page:12: exit code 1" in done.stderr
    assert not (tmp_path / "too-far").exists()
