"""The second run of a contrasting intervention: the same prompt with less of its image, step by step beside the first.

A hook behind the model's forward runs the model once more on the poorer prompt, with a cache of its own that hangs on
the first one's, and combines the two predictions. ``generate`` chooses from what comes back and knows of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.interventions.base import Branch, Intervention, LogitsIntervention
from lit_simignore.metrics.flops import DecoderShape, decoder_budget
from lit_simignore.surgery.cache import CacheState, Owner, check_cache, remember, state_of
from lit_simignore.surgery.calls import CACHE_NAMES, Signature, cache_in, cache_name
from lit_simignore.surgery.refusals import VISION_INPUTS
from lit_simignore.surgery.rows import ColumnMap, gather_rows, keep_columns
from lit_simignore.surgery.second_image import PixelNotes, noisy_features
from lit_simignore.surgery.second_run import SECOND, Begun, Second, SecondRun, under_way
from lit_simignore.types import UserError

_PASSED_ON = ("use_cache", "logits_to_keep", "return_dict")

_CALL: ContextVar[tuple[dict[str, Any], bool] | None] = ContextVar("lit_simignore_call", default=None)


class Contrast:
    """The hooks of one contrasting intervention.

    Args:
        part: the intervention.
        module: the one whose forward gives logits: the last entrance of a prompt.
        encoder: the module whose ``get_image_features`` makes visual tokens.
        owner: who feeds the caches.
        shape: of the decoder, for what the second run costs.
        multi_axis: whether positions have several planes.
        images_per_row: whether a row of pixel values holds all images of a sample.
        begun: tells what the prefill that just ran was.
    """

    def __init__(
        self, part: LogitsIntervention, module: nn.Module, encoder: nn.Module, owner: Owner, shape: DecoderShape,
        *, multi_axis: bool, images_per_row: bool, begun: Callable[[], Begun | None],
    ) -> None:  # fmt: skip
        self.part, self.module, self.encoder, self.owner, self.shape = part, module, encoder, owner, shape
        self.multi_axis, self.images_per_row, self.begun = multi_axis, images_per_row, begun
        self.signature, self.cache_name = Signature(module), cache_name(module.forward)
        self.notes = PixelNotes(encoder, lambda: SECOND.get() is None)

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the hooks, before all others of an attachment.

        The first one then sees the caller's own arguments, and the second one the prefill before it is forgotten.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        note(self.module.register_forward_pre_hook(self._before, with_kwargs=True))
        note(self.module.register_forward_hook(self._after, with_kwargs=True))
        if self.part.branch is Branch.NOISY_IMAGE:
            note(self.notes.install())

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if SECOND.get() is None:
            inputs = self.signature.named(args, kwargs)
            cache = cache_in(inputs)
            _CALL.set((inputs, cache is None or int(cache.get_seq_length()) == 0))

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        noted = _CALL.get()
        if SECOND.get() is not None or noted is None:
            return None
        _CALL.set(None)
        inputs, begins = noted
        self._refuse(inputs, output)
        if begins:
            return self._prefill(inputs, output)
        state = state_of(cache_in(output))
        if state is None or state.second is None:
            return None  # a prompt without images: nothing to take away
        if state.second.name != type(self.part).__name__:
            state.second.refuse("another contrasting intervention on the same cache")
        return self._step(inputs, output, state.second)

    def _refuse(self, inputs: dict[str, Any], output: Any) -> None:
        name = type(self.part).__name__
        if inputs.get("labels") is not None:
            raise UserError(f"{name} changes what is generated and has no loss; leave out labels, or the intervention")
        if isinstance(output, tuple):
            raise UserError(f"{name} needs outputs by name; leave return_dict=False out")

    # -- the prefill

    def _prefill(self, inputs: dict[str, Any], output: Any) -> Any:
        begun = self.begun()
        if begun is None or not any(begun.call.num_visual):
            return None
        cache = cache_in(output)
        if cache is None:
            raise UserError(
                f"{type(self.part).__name__} goes on beside the cache of the first run; leave use_cache=False out"
            )
        check_cache(cache)
        if cache.is_compileable:
            raise UserError(f"{type(self.part).__name__} needs a growing cache; leave cache_implementation unset")
        bare = self.part.branch is Branch.NO_IMAGE
        given, columns = self._bare(inputs, begun) if bare else (self._noisy(inputs, begun), None)
        second = Second(bare=bare, edits=self.part.edits_branch)
        other = self._run(given, second)
        run = SecondRun(type(self.part).__name__, cache_in(other), begun.slots.alive.shape[1])
        run.mask = None if columns is None else columns.valid
        state = state_of(cache)
        if state is None:
            remember(cache, CacheState(self.owner, second=run))
        else:
            state.second = run
        self._count(begun, second)
        if columns is None or output.logits.shape[1] == 1:
            output.logits = self._combined(output.logits, other.logits, first_step=0)
        else:
            output.logits = self._behind_the_image(output.logits, other.logits, columns, begun)
        return output

    def _bare(self, inputs: dict[str, Any], begun: Begun) -> tuple[dict[str, Any], ColumnMap]:
        """The prompt without its visual tokens, left-padded."""
        columns = keep_columns(begun.slots.alive & ~begun.slots.visual)
        given = {name: inputs[name] for name in _PASSED_ON if inputs.get(name) is not None}
        if not isinstance(given.get("logits_to_keep", 0), int):
            raise UserError(f"{type(self.part).__name__} takes logits_to_keep as a number only")
        if inputs.get("input_ids") is not None:
            given["input_ids"] = gather_rows(inputs["input_ids"], columns.index).masked_fill(~columns.valid, 0)
        else:
            given["inputs_embeds"] = gather_rows(inputs["inputs_embeds"], columns.index)
        if inputs.get("token_type_ids") is not None:  # PaliGemma: what is read in both directions
            given["token_type_ids"] = gather_rows(inputs["token_type_ids"], columns.index)
        given |= self._own_positions(columns.valid, columns.width)
        return {**given, self.cache_name: None}, columns

    def _noisy(self, inputs: dict[str, Any], begun: Begun) -> dict[str, Any]:
        """The same prompt with noise over its images."""
        counts = begun.slots.visual.sum(dim=1).tolist()
        keys = [begun.prompt.key(row) for row in range(len(counts))]
        features = noisy_features(self.part, self.notes, counts, keys, images_per_row=self.images_per_row)
        left = {name: value for name, value in inputs.items() if name not in (*VISION_INPUTS, *CACHE_NAMES)}
        return {**left, "mm_encoder_outputs": {"image": features}, self.cache_name: None}

    def _count(self, begun: Begun, second: Second) -> None:
        """Add what the second prefill cost."""
        for sample, budget in enumerate(begun.call.budgets):
            if second.call is not None:
                spent = second.call.budgets[sample]
            else:
                total, layers = begun.call.num_visual[sample], [0] * self.shape.num_layers
                spent = decoder_budget(self.shape, layers, total=total, text_tokens=begun.num_text[sample])
            begun.call.budgets[sample] = replace(budget, prefill_tflops=budget.prefill_tflops + spent.prefill_tflops)

    def _behind_the_image(self, first: Tensor, second: Tensor, columns: ColumnMap, begun: Begun) -> Tensor:
        """Rows that stand behind the last visual token combined; in the others the two prompts differ."""
        offset = begun.slots.alive.shape[1] - first.shape[1]
        start = columns.width - second.shape[1]
        place = columns.index[:, start:] - offset
        visual = begun.slots.visual
        behind = (visual.flip(1).cumsum(dim=1).flip(1) == 0) & visual.any(dim=1, keepdim=True)
        wanted = columns.valid[:, start:] & (place >= 0) & behind.gather(1, columns.index[:, start:])
        row, slot = wanted.nonzero(as_tuple=True)
        logits = first.float()
        chosen = self.part.combine(logits[row, place[row, slot]], second[row, slot])
        return logits.index_put((row, place[row, slot]), chosen)

    # -- later steps

    def _step(self, inputs: dict[str, Any], output: Any, run: SecondRun) -> Any:
        cache = cache_in(output)
        num_new = (inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]).shape[1]
        done = int(cache.get_seq_length()) - num_new - run.length
        if run.mask is None:
            left = {name: value for name, value in inputs.items() if name not in (*VISION_INPUTS, *CACHE_NAMES)}
            left.pop("mm_encoder_outputs", None)
        else:
            left = {name: inputs[name] for name in (*_PASSED_ON, "input_ids", "inputs_embeds") if name in inputs}
            left |= self._own_positions(self._whole_mask(inputs, run, done + num_new), num_new)
        other = self._run({**left, self.cache_name: run.cache}, Second(run.mask is not None, self.part.edits_branch))
        output.logits = self._combined(output.logits, other.logits, first_step=done + 1)
        return output

    def _whole_mask(self, inputs: dict[str, Any], run: SecondRun, num_later: int) -> Tensor:
        """``(B, n)`` bool over the second prompt and everything behind it."""
        assert run.mask is not None
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == run.length + num_later:
            later = mask[:, run.length :].bool()
        else:
            later = run.mask.new_ones(len(run.mask), num_later)
        return torch.cat([run.mask, later.to(run.mask.device)], dim=1)

    # -- both

    def _own_positions(self, mask: Tensor, num_new: int) -> dict[str, Tensor]:
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -num_new:]
        spread = positions[None].expand(3, -1, -1) if self.multi_axis else positions
        return {"attention_mask": mask.long(), "position_ids": spread}

    def _run(self, given: dict[str, Any], second: Second) -> Any:
        """The model once more; what it remembers of positions between calls belongs to the first run."""
        remembered = vars(self.encoder).get("rope_deltas")
        with under_way(second):
            output = self.module(**given)
        if remembered is not None:
            self.encoder.rope_deltas = remembered
        return output

    def _combined(self, first: Tensor, second: Tensor, *, first_step: int) -> Tensor:
        """``(B, R, V)`` float32, row by row."""
        rows = []
        for number in range(first.shape[1]):
            step = first_step if first_step == 0 else first_step + number
            other = second if self.part.contrasts_at(step) else first
            rows.append(self.part.combine(first[:, number], other[:, number]))
        return torch.stack(rows, dim=1)


def contrasting_part(parts: Sequence[Intervention]) -> LogitsIntervention | None:
    """The one intervention that needs a second run, ``None`` without any.

    Raises:
        UserError: there are several.
    """
    found = [part for part in parts if isinstance(part, LogitsIntervention) and part.contrasts]
    if len(found) > 1:
        names = " and ".join(type(part).__name__ for part in found)
        raise UserError(f"{names} each run the prompt a second time; one attach takes one of them")
    return found[0] if found else None
