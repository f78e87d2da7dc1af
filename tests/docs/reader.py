"""A reader of one page: does in an empty folder what its blocks say, top to bottom. Started as a process of its own.

Standard input is a list of ``[kind, where, text]``: ``file`` writes, ``bash`` runs through ``bash -e``, ``python`` runs
in one namespace for the whole page. The first block that fails ends it, named by page and line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def main() -> int:
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for kind, where, text in json.load(sys.stdin):
        start = time.perf_counter()
        if kind == "file":
            path, content = text
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(content, encoding="utf-8")
        elif kind == "bash":
            code = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", text], stdin=subprocess.DEVNULL).returncode
            if code:
                print(f"\n{where}: exit code {code}", file=sys.stderr)
                return 1
        else:
            try:
                exec(compile(text, where, "exec"), namespace)  # noqa: S102 - the page is part of the repository
            except BaseException:
                traceback.print_exc()
                print(f"\n{where}: raised", file=sys.stderr)
                return 1
        print(f"== {where}: {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
