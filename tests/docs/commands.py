"""Command lines of blocks that are not run: taken apart as a shell would, and given to the real configuration code."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lit_simignore.cli import eval_main, train_main
from tests.benchmarks.official_layouts import LAYOUTS
from tests.docs.pages import ROOT

MAINS: Mapping[str, Callable[[list[str]], int]] = {
    "eval.py": eval_main,
    "train.py": train_main,
    "lit-simignore-eval": eval_main,
    "lit-simignore-train": train_main,
}
_STEP = re.compile(r"[|&;]+")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every simple command: lines joined, no comments, split at ``&&``, ``;`` and pipes."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if _STEP.fullmatch(word):
                yield from [words] if words else []
                words = []
            else:
                words.append(word)
        yield from [words] if words else []


def broken(words: list[str]) -> str | None:
    """What is wrong with one command line: nothing about programs that are not ours."""
    for place, word in enumerate(words):
        main = MAINS.get(Path(word).name)
        if main is not None:
            return _refused(main, Path(word).name, words[place + 1 :])
        if word == "-m" and place + 1 < len(words) and words[place + 1].startswith("lit_simignore"):
            module = words[place + 1]
            return None if importlib.util.find_spec(module) else f"there is no module {module}"
        if place and _is_python(words[place - 1]) and word.endswith(".py") and not (ROOT / word).is_file():
            return f"there is no file {word}"
    return None


def _refused(main: Callable[[list[str]], int], name: str, arguments: list[str]) -> str | None:
    if any(argument.startswith("compare=") for argument in arguments):
        return None if all("=" in argument for argument in arguments) else f"{name}: expected key=value"
    assignments = [_filled(argument) for argument in _before_redirection(arguments)]
    code = main([*assignments, "--cfg"] if "--help" not in assignments else assignments)
    return None if code == 0 else f"{name} {shlex.join(assignments)}: refused with exit code {code}"


def make_data(words: list[str], folder: Path) -> None:
    """What the reader of ``benchmark=pope benchmark.path=coco`` has in ``coco``: a little of it, as it is published."""
    said = dict(word.split("=", 1) for word in words if "=" in word)
    name, path = said.get("benchmark", ""), Path(said.get("benchmark.path", ""))
    if name not in LAYOUTS or path == Path() or (folder / path).exists():
        return
    if not path.suffix:
        LAYOUTS[name](folder / path)
        return
    made = LAYOUTS[name](folder / "made" / name)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made["path"], folder / path)


def _before_redirection(arguments: list[str]) -> list[str]:
    places = [place for place, word in enumerate(arguments) if set(word) <= set("<>&12") and set(word) & set("<>")]
    return arguments[: places[0]] if places else arguments


def _filled(argument: str) -> str:
    """With variables of the shell given a value: their own default, or 1, as a count of nodes would have."""
    return _VARIABLE.sub(lambda found: found[2] or os.environ.get(found[1] or found[3], "1"), argument)


def _is_python(word: str) -> bool:
    return Path(word).name in ("python", "python3")
