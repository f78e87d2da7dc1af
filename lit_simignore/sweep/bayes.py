"""Search by results: Optuna proposes the next job from what the complete ones gave.

Not W&B's algorithm, which is a Gaussian process on its server, but for the same file and the same aim: the
tree-structured Parzen estimator. What it knows is rebuilt from the ledger for every proposal, so a killed runner loses
nothing.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping, Sequence
from typing import Any

from lit_simignore.config.typed import ConfigError
from lit_simignore.sweep.definition import Sweep
from lit_simignore.sweep.distributions import Parameter
from lit_simignore.sweep.plan import Outcome, number_of_jobs
from lit_simignore.tracking import VALIDATION

_RANDOM_FIRST = 5
"""Jobs that are drawn at random, before there is something to learn from."""


class Bayes:
    """Proposals of Optuna's TPE; jobs that still run count as bad ones, so that workers spread out.

    Raises:
        ConfigError: Optuna is not installed, or the file asks for what it cannot do.
    """

    def __init__(self, sweep: Sweep, count: int | None, seed: int) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("method", "bayes on this machine needs Optuna: pip install -e '.[sweeps]'; grid does not")
        if sweep.metric is None:
            raise ConfigError("metric", "bayes needs the number it goes for: {name: ..., goal: maximize}")
        if sweep.metric.name.partition("/")[0] not in ("eval", VALIDATION):
            raise ConfigError(
                "metric.name",
                f"on this machine bayes reads eval/METHOD/NAME and {VALIDATION}/METHOD/accuracy from the run folders, "
                f"got {sweep.metric.name!r}",
            )
        self.total = number_of_jobs(sweep, count)
        self._maximize, self._seed = sweep.metric.maximize, seed
        self._parameters = sweep.parameters
        self._varied = {name: each for name, each in sweep.parameters.items() if not each.fixed}
        for name, parameter in self._varied.items():
            _check(name, parameter)

    def values(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        if sum(metric is not None for _, metric in outcomes) < _RANDOM_FIRST:
            return {
                name: parameter.draw(random.Random(f"{self._seed} {index} {name}"))
                for name, parameter in self._parameters.items()
            }
        return self._with_fixed(self._propose(index, outcomes))

    def _with_fixed(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Values in the file's order; Optuna knows places in a list instead of the list's values."""
        found = {}
        for name, parameter in self._parameters.items():
            if parameter.fixed:
                found[name] = parameter.settings["value"]
            elif "values" in parameter.settings:
                found[name] = parameter.settings["values"][chosen[name]]
            else:
                found[name] = chosen[name]
        return found

    def _propose(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self._seed + index, n_startup_trials=0)
        study = optuna.create_study(direction="maximize" if self._maximize else "minimize", sampler=sampler)
        known = [metric for _, metric in outcomes if metric is not None]
        worst = min(known) if self._maximize else max(known)
        spaces = {name: _space(parameter) for name, parameter in self._varied.items()}
        for values, metric in outcomes:
            params = {name: _encoded(parameter, values[name]) for name, parameter in self._varied.items()}
            value = worst if metric is None else metric
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
        return dict(study.ask(fixed_distributions=spaces).params)


def _check(name: str, parameter: Parameter) -> None:
    possible = ("categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")
    if parameter.distribution not in possible:
        raise ConfigError(
            name, f"bayes on this machine takes {', '.join(possible)}, got {parameter.distribution}; random takes all"
        )
    if parameter.distribution == "q_uniform" and parameter.settings["min"] % parameter.settings["q"]:
        raise ConfigError(name, "q_uniform in bayes on this machine needs a min that is a multiple of q")


def _space(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    wish = parameter.settings
    if parameter.distribution == "categorical":
        return CategoricalDistribution(list(range(len(wish["values"]))))
    low, high = wish["min"], wish["max"]
    if parameter.distribution == "int_uniform":
        return IntDistribution(low, high)
    if parameter.distribution == "q_uniform":
        high = low + (high - low) // wish["q"] * wish["q"]
        whole = all(isinstance(number, int) for number in (low, high, wish["q"]))
        return IntDistribution(low, high, step=wish["q"]) if whole else FloatDistribution(low, high, step=wish["q"])
    return FloatDistribution(low, high, log=parameter.distribution == "log_uniform_values")


def _encoded(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna knows it; a rounded draw may lie just outside of the ends."""
    if parameter.distribution == "categorical":
        return parameter.settings["values"].index(value)
    return min(max(value, parameter.settings["min"]), parameter.settings["max"])
