"""``with attach(model, ...)``: pruning inside the model's own forward, and the model as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

from torch import nn

from lit_simignore.interventions.base import Intervention
from lit_simignore.surgery.drops import check_text, drops_of
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.hooks import Attachment
from lit_simignore.surgery.refusals import refuse_mixed_attention
from lit_simignore.surgery.spans import Spans
from lit_simignore.surgery.stages import DECODER_OFFERS
from lit_simignore.surgery.trace import Trace
from lit_simignore.types import UserError

_ATTACHED: WeakSet[nn.Module] = WeakSet()


@contextmanager
def attach(model: nn.Module, *parts: object, spans: Spans | None = None) -> Iterator[Trace]:
    """Within the block, ``model`` prunes visual tokens in every prefill: ``generate``, ``forward``, training.

    Interventions change the attention of their layers in the prefill and in later steps, and what is predicted.

    Callers see the unpruned interface: ``generate`` returns the original prompt and the new tokens, logits have the
    original length (dropped rows come from a zero hidden state), caches answer the original length, labels keep
    their columns. When every sample keeps everything, nothing is touched and results are bit-identical. Leaving the
    block, by whatever way, leaves no hook behind.

    Args:
        model: a Hugging Face model of a known family; wrappers of PEFT, DDP and ``torch.compile`` are looked through.
        parts: pruners and interventions, in the order in which they run. None at all only records. On one layer drops
            come before interventions, and a pruner that reads that layer's attention reads it unedited.
        spans: labels of the prompts, from :func:`~lit_simignore.surgery.prepare.prepare`. Rows are those of the
            call; under beams each counts for all beams. Without spans every token that is neither special nor
            visual counts as text, which includes the chat template.

    Yields:
        The trace, filled by every prefill. ``trace.spans`` may be replaced between calls.

    Raises:
        UserError: unknown family; a part that is neither pruner nor intervention, or that needs what the family does
            not offer; a text scope that needs spans; a model that is attached already.
    """
    base = unwrap(model)
    family = family_of(base.config)
    family.check(base)
    tower = family.vision(base)
    seen = tower.offers if tower is not None else frozenset()
    drops = drops_of(parts, family.offers | seen, family.offers | DECODER_OFFERS, type(family).__name__, family.instead)
    check_text(drops, spans)
    decoder = family.decoder(base)
    if decoder in _ATTACHED:
        raise UserError("this model is attached already; give all parts to one attach(model, first, second, ...)")
    refuse_mixed_attention(decoder)
    trace = Trace(spans)
    interventions = [part for part in parts if isinstance(part, Intervention)]
    attachment = Attachment(base, decoder, family, drops, trace, interventions)
    with ExitStack() as undo:
        _ATTACHED.add(decoder)
        undo.callback(_ATTACHED.discard, decoder)
        undo.callback(attachment.remove)
        attachment.install()
        yield trace


def is_attached(decoder: nn.Module) -> bool:
    """Whether an :func:`attach` block of a model with this text decoder is open."""
    return decoder in _ATTACHED


def unwrap(model: nn.Module) -> nn.Module:
    """The Hugging Face model inside wrappers of PEFT, ``torch.compile``, DDP and DataParallel."""
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()  # type: ignore[operator] # hooks on a PeftModel would not run inside generate
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            break
    if not hasattr(model, "config") or not hasattr(model, "get_decoder"):
        raise UserError(
            f"attach expects a Hugging Face model; got {type(model).__name__}: pass the model that load() returned"
        )
    return model
