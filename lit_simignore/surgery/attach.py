"""``with attach(model, ...)``: pruning inside the model's own forward, and the model as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

from torch import nn

from lit_simignore.pruning.base import Need, Pruner
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.hooks import Attachment
from lit_simignore.surgery.spans import Spans
from lit_simignore.surgery.stages import DECODER_OFFERS
from lit_simignore.surgery.trace import Trace
from lit_simignore.surgery.vision import VISION_OFFERS
from lit_simignore.types import UserError

_ATTACHED: WeakSet[nn.Module] = WeakSet()


@contextmanager
def attach(model: nn.Module, *parts: object, spans: Spans | None = None) -> Iterator[Trace]:
    """Within the block, ``model`` prunes visual tokens in every prefill: ``generate``, ``forward``, training.

    Callers see the unpruned interface: ``generate`` returns the original prompt and the new tokens, logits have the
    original length (dropped rows come from a zero hidden state), caches answer the original length, labels keep
    their columns. When every sample keeps everything, nothing is touched and results are bit-identical. Leaving the
    block, by whatever way, leaves no hook behind.

    Args:
        model: a Hugging Face model of a known family; wrappers of PEFT, DDP and ``torch.compile`` are looked through.
        parts: pruners, in the order in which they run. None at all only records.
        spans: labels of the prompts, from :func:`~lit_simignore.surgery.prepare.prepare`. Rows are those of the
            call; under beams each counts for all beams. Without spans every token that is neither special nor
            visual counts as text, which includes the chat template.

    Yields:
        The trace, filled by every prefill. ``trace.spans`` may be replaced between calls.

    Raises:
        UserError: unknown family; a part that is no pruner, or that needs what the family does not offer; a text
            scope that needs spans; a model that is attached already.
    """
    base = unwrap(model)
    family = family_of(base.config)
    family.check(base)
    tower = family.vision(base)
    pruners = check_parts(parts, family, family.offers | (VISION_OFFERS if tower is not None else frozenset()))
    check_text(pruners, spans)
    decoder = family.decoder(base)
    if decoder in _ATTACHED:
        raise UserError("this model is attached already; give all parts to one attach(model, first, second, ...)")
    trace = Trace(spans)
    attachment = Attachment(base, decoder, family, pruners, trace)
    with ExitStack() as undo:
        _ATTACHED.add(decoder)
        undo.callback(_ATTACHED.discard, decoder)
        undo.callback(attachment.remove)
        attachment.install()
        yield trace


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


def check_parts(parts: Sequence[object], family: Family, offers: frozenset[Need]) -> tuple[Pruner, ...]:
    """The single drops that ``parts`` are made of, each checked against what there is to read where it runs.

    Args:
        parts: what the user gave.
        family: for messages.
        offers: what rules before the decoder may read.
    """
    pruners: list[Pruner] = []
    for part in parts:
        if not isinstance(part, Pruner):
            raise UserError(f"attach takes pruners such as Simignore(num_keep=64); got {part!r}")
        for stage in part.stages():
            there = offers if stage.stage is None else (offers - VISION_OFFERS) | DECODER_OFFERS
            missing = sorted(need.value for need in stage.needs - there)
            if missing:
                name = type(family).__name__
                raise UserError(f"{type(part).__name__} needs {', '.join(missing)}, which {name} models do not offer")
        pruners += part.stages()
    entry = [pruner for pruner in pruners if pruner.stage is None]
    _check_alike(entry, "apply", "drop")
    _check_alike(entry, "positions", "original")
    return tuple(pruners)


def _check_alike(pruners: Sequence[Pruner], field: str, default: str) -> None:
    values = {getattr(pruner, field, default) for pruner in pruners}
    if len(values) > 1:
        raise UserError(
            f"pruners of one attach must agree on {field}; got {' and '.join(sorted(values))}: set one value"
        )


def check_text(pruners: Sequence[Pruner], spans: Spans | None) -> None:
    """Refuse a text scope that only spans can tell; warn once where all text has to do."""
    if spans is not None:
        return
    for pruner in pruners:
        if Need.TEXT not in pruner.needs:
            continue
        scope = getattr(pruner, "text", "prompt")
        if scope != "prompt":
            raise UserError(
                f"{type(pruner).__name__}(text={scope!r}) needs to know where the {scope} are: pass spans= from "
                "prepare(processor, samples), or use text='prompt'"
            )
