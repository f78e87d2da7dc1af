"""The reference lists every pruner, intervention and benchmark by itself: a new file needs no line there.

``<!-- every pruner -->`` in a page becomes one directive of mkdocstrings for each class that the package finds.
"""

from __future__ import annotations

import re
from typing import Any

from lit_simignore.benchmarks import BENCHMARKS
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.pruning import PRUNERS

KINDS = {"pruner": PRUNERS, "intervention": INTERVENTIONS, "benchmark": BENCHMARKS}
_MARKER = re.compile(rf"<!-- every ({'|'.join(KINDS)}) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    return _MARKER.sub(lambda found: "\n".join(_directive(cls) for cls in KINDS[found[1]]().values()), markdown)


def _directive(cls: type) -> str:
    return f"::: {cls.__module__}.{cls.__name__}"
