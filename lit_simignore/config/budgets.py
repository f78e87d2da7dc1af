"""Budgets on the command line: ``budget=layer_mean:192``, ``budgets=[64,128]``, ``fastv@64``, ``fastv@flops:64``."""

from __future__ import annotations

from collections.abc import Sequence

from lit_simignore.config.schema import BudgetDefinition, EvalConfig
from lit_simignore.config.typed import ConfigError, convert, parse, refuse_in_one_line
from lit_simignore.pruning._pending import PendingBudget, running_before, spend
from lit_simignore.pruning.base import Pruner


def asked_budgets(config: EvalConfig) -> list[str]:
    """What ``budget`` and ``budgets`` ask for, each as it is written after ``@``.

    A definition other than the usual one becomes part of the method's name, so that results say what was matched.

    Raises:
        ConfigError: both were given, or the budget cannot be read.
    """
    if config.budget is None:
        return [_written(config.budget_definition, budget) for budget in config.budgets]
    if config.budgets:
        raise ConfigError("budget", f"give one of budget and budgets; got {config.budget!r} and {config.budgets}")
    return [_written(*read_budget(config.budget, config.budget_definition, "budget"))]


def read_budget(text: str, usual: BudgetDefinition, key: str) -> tuple[BudgetDefinition, int | float]:
    """``64`` or ``layer_mean:64`` as definition and number.

    Raises:
        ConfigError: neither; or an unknown definition.
    """
    before, colon, after = text.rpartition(":")
    definition = convert(before.strip(), BudgetDefinition, key) if colon else usual
    number = parse(after.strip(), key) if after.strip() else None
    if isinstance(number, bool) or not isinstance(number, int | float):
        words = ", ".join(member.value for member in BudgetDefinition)
        raise ConfigError(key, f"expected a number of visual tokens, or {words} and one as in flops:64; got {text!r}")
    return definition, number


def with_budget(built: Sequence[object], usual: BudgetDefinition, text: str, whole: str) -> list[object]:
    """``built`` with the setting ``@text`` given to its only pruner.

    Where it depends on the model, it waits as a :class:`~lit_simignore.pruning._pending.PendingBudget`.

    Raises:
        ConfigError: there is no such pruner, or it cannot spend that.
    """
    pruners = [part for part in built if isinstance(part, Pruner)]
    if len(pruners) != 1:
        raise ConfigError(
            "methods", f"@{text} in {whole!r} needs one pruner, got {len(pruners)}; write @PART.FIELD=value"
        )
    definition, number = read_budget(text, usual, "methods")
    spent = refuse_in_one_line("methods", lambda: spend(pruners[0], definition.value, number))
    return [spent if part is pruners[0] else part for part in built]


def check_last(parts: Sequence[object], budgeted: Sequence[object], definition: BudgetDefinition, whole: str) -> None:
    """Refuse to match a method by a pruner that is not the last to drop: the budget would not be the method's.

    Args:
        parts: all parts of the method.
        budgeted: those of them that get the budget.
        definition: what it counts.
        whole: name of the method, for the message.

    Raises:
        ConfigError: another pruner runs later.
    """
    pruners = [part.pruner if isinstance(part, PendingBudget) else part for part in parts]
    counted = [
        part
        for part in pruners
        if isinstance(part, Pruner) and (definition is not BudgetDefinition.INPUT or part.stage is None)
    ]
    last = max(range(len(counted)), key=lambda place: len(running_before(counted, place)), default=None)
    ours = [part.pruner if isinstance(part, PendingBudget) else part for part in budgeted]
    if last is not None and not any(counted[last] is part for part in ours):
        raise ConfigError(
            "budgets",
            f"{type(counted[last]).__name__} drops last in {whole!r} and has its own settings, so the method cannot be "
            "matched by the other; give the budget to the one that drops last",
        )


def _written(definition: BudgetDefinition, number: float) -> str:
    return f"{number:g}" if definition is BudgetDefinition.FINAL else f"{definition.value}:{number:g}"
