"""Asks the model: the untouched one once per question, then every method beside it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from lit_simignore.config.methods import Definitions
from lit_simignore.engine.generation import Prompts, answer, prompts_of
from lit_simignore.explore.offers import Offer, Prober
from lit_simignore.explore.shelf import Held
from lit_simignore.explore.wish import Wish
from lit_simignore.surgery.attach import unwrap
from lit_simignore.surgery.flow import Flow, information_flow
from lit_simignore.surgery.prefill_shape import prompt_shape
from lit_simignore.surgery.trace import CallTrace
from lit_simignore.types import Budget, UserError

_REMEMBERED = 8


class Stopped(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What came of one question under one method.

    Args:
        name: of the method, as ``eval.py`` takes it.
        output: the generated text.
        finite: False where some logit was not a number, so that the text means nothing.
        call: which visual tokens survived which stage.
        budget: what was spent.
        wall_ms: milliseconds from the prompt to the last token, measured once.
        tokens: ids of the generated text.
        flow: where it comes from, if that was asked.
        no_flow: why it was asked and is not there.
    """

    name: str
    output: str
    finite: bool
    call: CallTrace
    budget: Budget
    wall_ms: float
    tokens: Tensor
    flow: Flow | None = None
    no_flow: str = ""


@dataclass(slots=True, eq=False)
class _Remembered:
    prompts: Prompts
    baseline: dict[str, Answered] = field(default_factory=dict)


class Desk:
    """A model, its processor and the questions that were asked of it last. For one thread at a time.

    Args:
        model: from :func:`~lit_simignore.surgery.load.load`, on its device.
        processor: the model's.
        max_new_tokens: tokens generated at most per answer.
    """

    def __init__(self, model: nn.Module, processor: Any, max_new_tokens: int) -> None:
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.definitions = Definitions()
        self._asked: OrderedDict[tuple[Any, ...], _Remembered] = OrderedDict()

    def ask(self, wish: Wish, held: Held, stop: threading.Event) -> tuple[Answered, Answered]:
        """The baseline's answer and the method's.

        Args:
            wish: what to ask.
            held: the image that it names.
            stop: set it to end the work after the token that is being generated.

        Raises:
            UserError: the method is unknown, cannot run on this model, or refuses its settings.
            Stopped: ``stop`` was set.
        """
        known = self._remember(wish, held)
        parts = self._prober(known.prompts).built(wish.method)
        if wish.flow not in known.baseline:
            base = known.baseline.get("none") or self._answer("baseline", (), known.prompts, stop)
            known.baseline["none"] = base
            known.baseline[wish.flow] = self._with_flow(base, (), known.prompts, wish.flow, stop)
        base = known.baseline[wish.flow]
        if not parts:
            return base, base
        found = self._answer(wish.method, parts, known.prompts, stop)
        return base, self._with_flow(found, parts, known.prompts, wish.flow, stop)

    def offers(self, wish: Wish, held: Held) -> list[Offer]:
        """Every method, tried on this model with any prompt that shows an image."""
        return self._prober(self._remember(wish, held).prompts).offers()

    def num_visual(self, wish: Wish, held: Held) -> int:
        """Visual tokens of a prompt."""
        return prompt_shape(self.model, self._remember(wish, held).prompts.inputs).num_visual

    def about(self) -> list[str]:
        """The model in a few words: class, depth, size, where and how it computes."""
        base: Any = unwrap(self.model)
        config = base.config.get_text_config(decoder=True)
        weights = sum(weight.numel() for weight in base.parameters())
        first = next(base.parameters())
        size = f"{weights / 1e9:.1f} B" if weights >= 1e8 else f"{weights / 1e6:.1f} M"
        return [
            type(base).__name__, f"{config.num_hidden_layers} decoder layers", f"{size} parameters",
            f"{first.device}, {str(first.dtype).removeprefix('torch.')}",
        ]  # fmt: skip

    def _prober(self, prompts: Prompts) -> Prober:
        return Prober(self.model, prompts.spans, prompt_shape(self.model, prompts.inputs), self.definitions)

    def _remember(self, wish: Wish, held: Held) -> _Remembered:
        """The prompt, made once per question: a slider asks the same again and again."""
        if wish.asked not in self._asked:
            prompts = prompts_of(self.processor, [wish.sample(held.image)], [[held.image]], self.model)
            self._asked[wish.asked] = _Remembered(prompts)
        while len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)
        self._asked.move_to_end(wish.asked)
        return self._asked[wish.asked]

    def _answer(self, name: str, parts: tuple[object, ...], prompts: Prompts, stop: threading.Event) -> Answered:
        criteria = StoppingCriteriaList([_Until(stop)])
        _raise_if(stop)
        found = answer(self.model, self.processor, prompts, parts, self.max_new_tokens, stopping_criteria=criteria)
        _raise_if(stop)
        call = found.trace.last
        return Answered(
            name=name,
            output=found.outputs[0],
            finite=found.finite[0],
            call=call,
            budget=call.budgets[0],
            wall_ms=found.wall_ms,
            tokens=found.tokens[0],
        )

    def _with_flow(
        self, found: Answered, parts: tuple[object, ...], prompts: Prompts, wanted: str, stop: threading.Event
    ) -> Answered:
        """The answer with its information flow, or with the reason why that cannot be had."""
        _raise_if(stop)
        if wanted == "none" or not found.finite:
            return found
        try:
            (flow,) = information_flow(
                self.model, prompts.inputs, [found.tokens], parts=parts, spans=prompts.spans, gradients=wanted == "cam"
            )
        except UserError as error:
            return replace(found, no_flow=" ".join(str(error).split()))
        return replace(found, flow=flow)


class _Until(StoppingCriteria):
    """Ends ``generate`` after the token at hand once an event is set, by way of its regular exit."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)


def _raise_if(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped


def place(model: nn.Module, device: str) -> nn.Module:
    """``model`` on its device; one that is quantized or spread over devices stays where it is.

    Args:
        model: just loaded.
        device: ``auto`` or a name that torch knows.

    Raises:
        UserError: there is no such device, or it has no room.
    """
    if hasattr(model, "hf_device_map") or getattr(model, "is_quantized", False):
        return model
    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True) if hasattr(torch, "accelerator") else None
        device = "cpu" if found is None else str(found)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device={device}: {' '.join(str(error).split())}; choose another device") from error
