"""One parameter of a sweep: what it may be, as W&B defines its distributions, and how a value is drawn.

Source: W&B's documentation of sweep configurations, section on distribution options; the defaults where none is named
are those that W&B fills in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from lit_simignore.config.typed import ConfigError
from lit_simignore.discovery import nearest

_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Parameter:
    """What one key of the command line may be.

    Args:
        name: dotted key, as on the command line.
        distribution: W&B's word for it.
        settings: what it needs: value, values, probabilities, or min, max, mu, sigma, a, b, q.
    """

    name: str
    distribution: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> bool:
        """Whether there is only one value."""
        return self.distribution == "constant"

    def draw(self, source: random.Random) -> Any:
        """One random value."""
        return self.at(_below_one(source))

    def at(self, share: float) -> Any:
        """The value below which ``share`` (0 to 1, exclusive) of all draws lie: the inverse of the distribution."""
        value = _INVERSES[self.distribution](self.settings, share)
        return _rounded(value, self.settings["q"]) if "q" in self.settings else value

    def options(self) -> list[Any]:
        """All values, for a grid.

        Raises:
            ConfigError: there are infinitely many, or they have probabilities, which a grid would ignore.
        """
        wish = self.settings
        if self.distribution == "constant":
            return [wish["value"]]
        if self.distribution == "categorical":
            return list(wish["values"])
        if self.distribution == "int_uniform":
            return list(range(wish["min"], wish["max"] + 1))
        if self.distribution == "q_uniform":
            steps = math.ceil((wish["max"] - wish["min"]) / wish["q"] - 1e-9)
            return [wish["min"] + index * wish["q"] for index in range(steps)]
        raise ConfigError(self.name, f"a grid needs value, values, int_uniform or q_uniform; got {self.distribution}")


def read_parameter(name: str, section: object) -> Parameter:
    """The parameter that a section of a sweep file describes.

    Raises:
        ConfigError: one line on what is wrong with it.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(name, f"expected value, values or a distribution, got {section!r}; write {{value: ...}}")
    if "parameters" in section:
        raise ConfigError(name, f"nested parameters reach the command as one mapping; write {name}.KEY instead")
    given = {str(key): value for key, value in section.items()}
    distribution = given.pop("distribution", None) or _usual(name, given)
    if distribution not in _NEEDS:
        raise ConfigError(name, f"unknown distribution {distribution!r}; {nearest(str(distribution), _NEEDS)}")
    needed, optional = _NEEDS[distribution]
    if missing := [key for key in needed if key not in given]:
        raise ConfigError(name, f"{distribution} needs {' and '.join(missing)}")
    if unknown := [key for key in given if key not in (*needed, *optional)]:
        raise ConfigError(name, f"{distribution} takes {', '.join((*needed, *optional))}; got {unknown[0]!r}")
    settings = {**optional, **given}
    _check(name, distribution, settings)
    return Parameter(name, distribution, settings)


def _usual(name: str, given: Mapping[str, Any]) -> str:
    """What W&B takes it for where no distribution is named."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given and "max" in given:
        return "int_uniform" if _whole(given["min"]) and _whole(given["max"]) else "uniform"
    raise ConfigError(name, f"expected value, values, min and max, or a distribution; got {', '.join(given) or 'none'}")


def _check(name: str, distribution: str, settings: Mapping[str, Any]) -> None:
    for key in ("min", "max", "mu", "sigma", "a", "b", "q"):
        value = settings.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            hint = "; YAML reads 1e-5 as text, write 1.0e-5" if isinstance(value, str) else ""
            raise ConfigError(name, f"{key}: expected a number, got {value!r}{hint}")
    if "min" in settings and not settings["min"] <= settings["max"]:
        raise ConfigError(name, f"expected min <= max, got {settings['min']} and {settings['max']}")
    if distribution.endswith("log_uniform_values") and settings["min"] <= 0:
        raise ConfigError(name, f"{distribution} needs min > 0, got {settings['min']}")
    if distribution == "int_uniform" and not (_whole(settings["min"]) and _whole(settings["max"])):
        raise ConfigError(name, f"int_uniform needs integers, got {settings['min']} and {settings['max']}")
    if settings.get("sigma", 1) <= 0 or settings.get("q", 1) <= 0 or min(map(settings.get, "ab", (1, 1))) <= 0:
        raise ConfigError(name, "expected sigma, q, a and b above 0")
    _check_values(name, settings)


def _check_values(name: str, settings: Mapping[str, Any]) -> None:
    values = settings.get("values", [settings.get("value")])
    if not isinstance(values, list) or not values:
        raise ConfigError(name, f"values: expected a list of at least one value, got {values!r}")
    for value in values:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, _PLAIN) for part in parts) or "\0" in str(value):
            raise ConfigError(name, f"expected numbers, text, true, false, null or lists of them, got {value!r}")
    odds = settings.get("probabilities")
    if odds is None:
        return
    if not isinstance(odds, list) or not all(isinstance(one, int | float) and one >= 0 for one in odds):
        raise ConfigError(name, f"probabilities: expected a list of numbers of at least 0, got {odds!r}")
    if len(odds) != len(values) or abs(sum(odds) - 1) > 1e-6:
        raise ConfigError(name, f"expected {len(values)} probabilities that add up to 1, got {odds}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _below_one(source: random.Random) -> float:
    """Uniform between 0 and 1, both excluded, which have no normal quantile."""
    while not (drawn := source.random()):
        pass
    return drawn


def _rounded(value: float, q: float) -> float:
    """To the nearest multiple of ``q``; whole numbers where ``q`` is one."""
    found = round(value / q) * q
    return int(found) if isinstance(q, int) else found


def _between(settings: Mapping[str, Any], share: float) -> float:
    return settings["min"] + share * (settings["max"] - settings["min"])


def _between_logs(settings: Mapping[str, Any], share: float) -> float:
    low, high = math.log(settings["min"]), math.log(settings["max"])
    return min(max(math.exp(low + share * (high - low)), settings["min"]), settings["max"])


def _whole_between(settings: Mapping[str, Any], share: float) -> int:
    return int(settings["min"]) + int(share * (settings["max"] - settings["min"] + 1))


def _one_of(settings: Mapping[str, Any], share: float) -> Any:
    return settings["values"][int(share * len(settings["values"]))]


def _weighted(settings: Mapping[str, Any], share: float) -> Any:
    sums = list(accumulate(settings["probabilities"]))
    last = max(place for place, odds in enumerate(settings["probabilities"]) if odds > 0)
    return settings["values"][next((place for place, total in enumerate(sums) if share < total), last)]


def _normal(settings: Mapping[str, Any], share: float) -> float:
    return NormalDist(settings["mu"], settings["sigma"]).inv_cdf(share)


_RANGE: tuple[str, ...] = ("min", "max")
_BELL = {"mu": 0.0, "sigma": 1.0}
_Q = {"q": 1}
_NEEDS: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (_RANGE, {}),
    "uniform": (_RANGE, {}),
    "q_uniform": (_RANGE, _Q),
    "log_uniform_values": (_RANGE, {}),
    "q_log_uniform_values": (_RANGE, _Q),
    "inv_log_uniform_values": (_RANGE, {}),
    "log_uniform": (_RANGE, {}),
    "q_log_uniform": (_RANGE, _Q),
    "inv_log_uniform": (_RANGE, {}),
    "normal": ((), _BELL),
    "q_normal": ((), {**_BELL, **_Q}),
    "log_normal": ((), _BELL),
    "q_log_normal": ((), {**_BELL, **_Q}),
}
"""Distribution to what it needs, and what it takes besides, with W&B's defaults."""

_INVERSES: Mapping[str, Callable[[Mapping[str, Any], float], Any]] = {
    "constant": lambda settings, share: settings["value"],
    "categorical": _one_of,
    "categorical_w_probabilities": _weighted,
    "int_uniform": _whole_between,
    "uniform": _between,
    "q_uniform": _between,
    "log_uniform_values": _between_logs,
    "q_log_uniform_values": _between_logs,
    # The logarithm of 1/X is uniform if and only if that of X is.
    "inv_log_uniform_values": _between_logs,
    # The older words take exponents of e as ends.
    "log_uniform": lambda settings, share: math.exp(_between(settings, share)),
    "q_log_uniform": lambda settings, share: math.exp(_between(settings, share)),
    "inv_log_uniform": lambda settings, share: math.exp(-_between(settings, 1 - share)),
    "normal": _normal,
    "q_normal": _normal,
    "log_normal": lambda settings, share: math.exp(_normal(settings, share)),
    "q_log_normal": lambda settings, share: math.exp(_normal(settings, share)),
}
