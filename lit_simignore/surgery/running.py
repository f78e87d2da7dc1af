"""The prefill that is running in a thread: what its hooks know of it, and what it spent."""

from __future__ import annotations

from contextvars import ContextVar, Token

from torch import nn

from lit_simignore.metrics.flops import DecoderShape, decoder_budget
from lit_simignore.surgery.edits import edit_traces
from lit_simignore.surgery.prompt import Prompt, Slots
from lit_simignore.surgery.rows import ColumnMap
from lit_simignore.surgery.second_run import SECOND, Begun
from lit_simignore.surgery.stages import DecoderRun
from lit_simignore.surgery.trace import CallTrace, Trace


class Prefill:
    """One prefill on its way from the model's pre-hook to the decoder's post-hook."""

    def __init__(self, prompt: Prompt, entrance: nn.Module) -> None:
        self.prompt = prompt
        self.entrance = entrance
        self.slots: Slots | None = None
        self.whole: Slots | None = None
        self.columns: ColumnMap | None = None
        self.hiding: ColumnMap | None = None
        self.run: DecoderRun | None = None
        self.call: CallTrace | None = None
        self.num_text: list[int] = []
        self.token: Token[Prefill | None] | None = None

    def close(self, shape: DecoderShape, trace: Trace, num_dropped_at_entry: int) -> None:
        """Write down what was spent and noted; a second run's call goes to the run that it belongs to.

        Args:
            shape: of the decoder.
            trace: of the attachment.
            num_dropped_at_entry: stages before the decoder that took tokens out.
        """
        call = self.call
        assert call is not None
        left: dict[int, list[int]] = {}
        if self.run is not None:
            self.run.finish()
            left = self.run.left
        for sample, total in enumerate(call.num_visual):
            computed = len(call.stages[num_dropped_at_entry - 1].kept[sample]) if num_dropped_at_entry else total
            layers = []
            for layer in range(shape.num_layers):
                computed = left[layer][sample] if layer in left else computed
                layers.append(computed)
            call.budgets.append(decoder_budget(shape, layers, total=total, text_tokens=self.num_text[sample]))
        call.edits = [] if self.run is None else edit_traces(self.run.edits, self.prompt.repeats)
        second = SECOND.get()
        if second is None:
            trace.add(call)
        else:
            second.call = call


PREFILL: ContextVar[Prefill | None] = ContextVar("lit_simignore_prefill", default=None)


def current_prefill() -> Prefill | None:
    """The prefill that is running in this thread; ``None`` between calls, in later steps and in the backward pass.

    Second runs of a prompt are not counted.
    """
    return PREFILL.get() if SECOND.get() is None else None


def pruned_prefill() -> Prefill | None:
    """The prefill that the decoder's hooks act on: none in a second run without visual tokens."""
    second = SECOND.get()
    return None if second is not None and second.bare else PREFILL.get()


def begun_prefill() -> Begun | None:
    """What a second run needs to know of the prefill that just ended."""
    prefill = PREFILL.get()
    if prefill is None or prefill.call is None or prefill.whole is None:
        return None
    return Begun(prefill.prompt, prefill.whole, prefill.call, prefill.num_text)
