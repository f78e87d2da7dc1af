"""What is needed to make the run again: command, seed, versions, hardware, configuration."""

from __future__ import annotations

from collections.abc import Mapping

from lit_simignore.report.formats import clean, one_line, shorten
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.summary import RunView

_PLAIN = ("name", "model", "benchmark", "protocol", "num_samples", "seed", "created")
_VALUE_LIMIT, _MOST_FACTS = 2000, 60


def facts_section(view: RunView, config: str) -> Markup:
    """Tables of facts and the resolved configuration, folded away."""
    command = view.run.get("command")
    titles = element("summary", "Configuration (config.yaml)")
    settings = shorten(clean(config), 40_000)
    return element(
        "section",
        element("h2", "How to get these numbers again"),
        element("pre", shorten(clean(command), _VALUE_LIMIT), class_="command") if command else None,
        element(
            "div",
            _facts("Run", {key: view.run.get(key) for key in _PLAIN}),
            _facts("Versions", view.run.get("versions")),
            _facts("Hardware", view.run.get("hardware")),
            _facts("Timing pass", view.run.get("timing")),
            class_="facts",
        ),
        element("details", titles, element("pre", settings)) if config else None,
        id="settings",
    )


def _facts(title: str, values: object) -> Markup | None:
    if not isinstance(values, Mapping):
        return None
    known = [(key, value) for key, value in values.items() if value is not None and value != ""][:_MOST_FACTS]
    if not known:
        return None
    pairs = [
        element("div", element("dt", one_line(key).replace("_", " ")), element("dd", element("bdi", _plain(value))))
        for key, value in known
    ]
    return element("div", element("h3", title), element("dl", *pairs))


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return shorten(", ".join(f"{one_line(key)}: {one_line(entry)}" for key, entry in value.items()), _VALUE_LIMIT)
    if isinstance(value, list | tuple):
        return shorten(", ".join(map(one_line, value)), _VALUE_LIMIT)
    return shorten(one_line(value), _VALUE_LIMIT)
