"""``python -m lit_simignore.explore``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from lit_simignore.command import FLAGS, run_command
from lit_simignore.config.compose import compose
from lit_simignore.config.help import render_help
from lit_simignore.config.typed import plain
from lit_simignore.explore.settings import ExploreConfig, check
from lit_simignore.types import UserError

_USAGE = f"""\
Look at one image and one question under any method, in a browser on this machine.

  python -m lit_simignore.explore
  python -m lit_simignore.explore model=llava-1.5-7b device=cuda
  python -m lit_simignore.explore model=llava-hf/llava-1.5-7b-hf port=0 browser=true

Needs the extra: pip install -e ".[explore]". The page is served to this machine only; from another one, use a tunnel:
ssh -L 7860:127.0.0.1:7860 HOST.

{FLAGS}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C.

    Args:
        argv: flags and ``key=value``; by default those of this process.

    Returns:
        The exit code: 0 stopped by the user, 1 failure, 2 bad configuration.
    """
    return run_command(sys.argv[1:] if argv is None else argv, _run, lambda: render_help(ExploreConfig, _USAGE, {}))


def _run(assignments: Sequence[str], only_config: bool) -> None:
    config, layers = compose(ExploreConfig, assignments)
    with layers.blame():
        check(config)
    if only_config:
        print(OmegaConf.to_yaml(OmegaConf.create(plain(config))), end="")
        return
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the page needs {' and '.join(missing)}: pip install -e '.[explore]'")
    from lit_simignore.explore.server import serve

    serve(config)


if __name__ == "__main__":
    sys.exit(main())
