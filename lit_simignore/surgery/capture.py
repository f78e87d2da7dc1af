"""What attribution needs of one prefill, taken while its layers run: attention rows, features, and their gradients.

No layer makes an attention map. Queries and keys are seen on their way to the layer's own kernel, and rows of attention
are computed beside it, a few at a time; a reader that returns little keeps memory at one layer's worth. Gradients of
all layers come from one backward pass, those of attention from the gradient of what it mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.attribution.cam import class_activation
from lit_simignore.attribution.saliency import gradients as gradients_of
from lit_simignore.attribution.saliency import row_saliency
from lit_simignore.surgery.attach import attach, is_attached, unwrap
from lit_simignore.surgery.attention import Heads, install_tap
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.layout import Layout
from lit_simignore.surgery.running import Prefill, current_prefill
from lit_simignore.types import UserError

ROWS_AT_ONCE = 128
"""Query rows whose attention to everything exists at the same time."""

_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm")
"""Names of the norm in front of a decoder layer's MLP; where both exist, the second one ends the attention block."""

_OUTPUTS = ("o_proj", "out_proj", "dense")


@dataclass(frozen=True, slots=True, eq=False)
class SeenLayer:
    """One decoder layer as a reader sees it, while it runs and without gradients. H query heads, n slots.

    Args:
        layer_idx: 0-based.
        heads: queries and keys of the whole batch.
        layout: what the slots are.
    """

    layer_idx: int
    heads: Heads
    layout: Layout

    def attention(self, row: int, columns: Tensor) -> Tensor:
        """``(H, R, n)`` float32 attention of the queries in the prompt's ``columns`` ``(R,)``, over the slots."""
        return self.heads.probabilities(row, self.layout.slots_of(row, columns))

    def chunks(self, row: int, size: int = ROWS_AT_ONCE) -> Iterator[tuple[Tensor, Tensor]]:
        """Slots ``(R,)`` of all real queries and their attention ``(H, R, n)``, at most ``size`` at a time."""
        for some in self.layout.alive[row].nonzero()[:, 0].split(size):
            yield some, self.heads.probabilities(row, some)


Reader = Callable[[SeenLayer], Any]


@dataclass(slots=True, eq=False)
class LayerCapture:
    """What was kept of one decoder layer.

    Args:
        layout: what its slots are.
        read: what the reader returned.
        heads: queries, keys and values, with ``gradients=True``.
        features: ``(B, n, D)`` rows behind the norm in front of the MLP, likewise, with their graph.
        mixed: ``(B, n, H * e)`` what attention mixed, before the output projection, likewise.
        feature_gradient: of ``features``, after :meth:`Capture.differentiate`.
        mixed_gradient: of ``mixed``, likewise.
    """

    layout: Layout
    read: Any = None
    heads: Heads | None = None
    features: Tensor | None = None
    mixed: Tensor | None = None
    feature_gradient: Tensor | None = None
    mixed_gradient: Tensor | None = None


class Capture:
    """What :func:`capture` saw of the last prefill; it stays readable after the block. Rows are those of the call.

    Attributes:
        layers: by 0-based index, in the order in which they ran.
        visual: ``(B, N)`` bool, the prompt's visual tokens.
        alive: ``(B, N)`` bool, its real columns.
        inputs: ``(B, n, D)`` the rows that entered layer 0 (layer 0 must be among those captured).
    """

    def __init__(self, read: Reader | None, gradients: bool) -> None:
        self._read, self._gradients = read, gradients
        self._prefill: Prefill | None = None
        self.layers: dict[int, LayerCapture] = {}
        self.visual = self.alive = torch.zeros(0, 0, dtype=torch.bool)
        self.inputs: Tensor | None = None
        self._grids: list[tuple[tuple[int, int], ...]] = []
        self._repeats = 1

    # -- what was seen

    def num_visual(self, row: int) -> int:
        """Visual tokens of one row of the prompt, before pruning."""
        return int(self.visual[row].sum())

    def grids(self, row: int) -> tuple[tuple[int, int], ...]:
        """(rows, cols) of every image of one row; empty where its visual tokens form no grids."""
        return self._grids[row // self._repeats]

    def differentiate(self, target: Tensor, *, keep_graph: bool = False) -> None:
        """One backward pass from a scalar to the features and attention of all captured layers.

        Rows of a batch do not influence each other, so the sum of their targets serves all of them at once.

        Args:
            target: scalar, see :mod:`lit_simignore.attribution.targets`.
            keep_graph: keep what a second target needs.

        Raises:
            UserError: nothing was captured with ``gradients=True``, or the model ran under ``torch.no_grad()``.
        """
        kept = [layer for layer in self.layers.values() if layer.features is not None and layer.mixed is not None]
        if not kept:
            raise UserError("no layer holds a graph: run the model inside capture(model, gradients=True)")
        tensors = [tensor for layer in kept for tensor in (layer.features, layer.mixed) if tensor is not None]
        found = gradients_of(target, tensors, keep_graph=keep_graph)
        for layer, feature, mixed in zip(kept, found[::2], found[1::2], strict=True):
            layer.feature_gradient, layer.mixed_gradient = feature, mixed

    def activation(self, layer_idx: int, row: int, *, mode: str = "grad_cam") -> Tensor:
        """``(I,)`` LLaVA-CAM map of one layer over the prompt's visual tokens; zero where one was pruned before it.

        Args:
            layer_idx: a captured layer.
            row: of the batch.
            mode: see :func:`~lit_simignore.attribution.cam.class_activation`.
        """
        layer = self._differentiated(layer_idx)
        seen = layer.layout.visual[row]
        assert layer.features is not None and layer.feature_gradient is not None
        count = self.num_visual(row)
        if not bool(seen.any()):
            return torch.zeros(count)
        found = class_activation(layer.features[row, seen].detach(), layer.feature_gradient[row, seen], mode=mode)
        spread = found.new_zeros(seen.shape[0])
        spread[seen] = found
        return layer.layout.to_image(spread, row, count).cpu()

    def saliency(self, layer_idx: int, row: int, columns: Tensor) -> Tensor:
        """``(H, R, n)`` float32 ``|attention * gradient|`` of the queries in the prompt's ``columns`` ``(R,)``.

        Args:
            layer_idx: a captured layer.
            row: of the batch.
            columns: int64, columns of the prompt.
        """
        layer = self._differentiated(layer_idx)
        assert layer.heads is not None and layer.heads.value is not None and layer.mixed_gradient is not None
        slots = layer.layout.slots_of(row, columns)
        slope = layer.mixed_gradient[row, slots].unflatten(-1, (layer.heads.query.shape[1], -1))
        return row_saliency(layer.heads.probabilities(row, slots), layer.heads.value[row].detach(), slope)

    def _differentiated(self, layer_idx: int) -> LayerCapture:
        layer = self.layers.get(layer_idx)
        if layer is None or layer.feature_gradient is None:
            known = ", ".join(map(str, self.layers)) or "none"
            raise UserError(f"layer {layer_idx} has no gradients (captured: {known}); call differentiate(target) first")
        return layer

    # -- while the model runs

    def _current(self) -> Prefill | None:
        """The prefill that is running here; a recomputation in the backward pass belongs to none."""
        prefill = current_prefill()
        if prefill is None or prefill.slots is None or (prefill.run is not None and prefill.run.probing):
            return None
        return prefill

    def observe(self, layer_idx: int, heads: Heads) -> None:
        """Keep what is wanted of a layer's queries, keys and values."""
        prefill = self._current()
        if prefill is None:
            return
        if prefill is not self._prefill:
            self._open(prefill)
        if layer_idx in self.layers:
            return
        reached = prefill.slots if prefill.run is None else prefill.run.slots
        assert reached is not None
        layout = Layout.of(reached.to(heads.query.device), self.alive.to(heads.query.device))
        layer = LayerCapture(layout, heads=heads if self._gradients else None)
        if self._read is not None:
            with torch.no_grad():
                layer.read = self._read(SeenLayer(layer_idx, heads, layout))
        self.layers[layer_idx] = layer

    def _open(self, prefill: Prefill) -> None:
        assert prefill.whole is not None
        if self._prefill is not None:
            self.layers, self.inputs = {}, None
        self._prefill = prefill
        self.visual, self.alive = prefill.whole.visual, prefill.whole.alive
        assert prefill.call is not None
        self._grids, self._repeats = prefill.call.grids, prefill.prompt.repeats

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pre-hook of layer 0: gradients are wanted down to here and no further."""
        prefill = self._current()
        if prefill is None:
            return None
        if prefill is not self._prefill:
            self._open(prefill)
        hidden = args[0] if args else kwargs["hidden_states"]
        self.inputs = hidden.detach()
        if not self._gradients or not torch.is_grad_enabled():
            return None
        start = hidden.detach().requires_grad_()
        return ((start, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": start})

    def _keep(self, layer_idx: int, name: str) -> Callable[..., None]:
        """A hook that keeps a module's output (features), or its input (mixed values), of the current prefill."""

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
            layer = self.layers.get(layer_idx) if self._current() is self._prefill else None
            if layer is not None and getattr(layer, name) is None:
                setattr(layer, name, args[0] if output is None else output)

        return keep

    def _finish(self) -> None:
        self._prefill = None


class _Listener:
    """Observer of one attention module."""

    probing = False

    def __init__(self, owner: Capture, layer_idx: int) -> None:
        self._owner, self._layer_idx = owner, layer_idx

    def observe(self, layer_idx: int, heads: Heads) -> None:
        self._owner.observe(self._layer_idx, heads)


@contextmanager
def capture(
    model: nn.Module, *, layers: Iterable[int] | None = None, read: Reader | None = None, gradients: bool = False
) -> Iterator[Capture]:
    """Within the block, take what attribution needs out of every prefill of ``model``; each replaces the one before.

    Works alone and inside :func:`~lit_simignore.surgery.attach.attach` (enter it second), on every family, with
    batches, padding, grouped heads and pruning: a layer is described by its :class:`~lit_simignore.surgery.layout.
    Layout`, results are given for the prompt's own visual tokens. Where an intervention changes what a layer's kernel
    is given, that is what is shown; rows that it computes beside the kernel (the visual boost) and gains of heads are
    not. Results of the model do not change by a bit; leaving the block, by whatever way, leaves no hook behind.

    Args:
        model: a Hugging Face model of a known family, or a wrapper of one.
        layers: 0-based decoder layers; ``None`` for all.
        read: called once per layer, as it runs; what it returns is kept as ``layers[k].read``. Return small tensors:
            the layer's queries and keys go when it returns.
        gradients: keep features and attention with their graph, for :meth:`Capture.differentiate`. The graph begins
            at layer 0, and the decoder's parameters get no gradients inside the block.

    Yields:
        The capture.

    Raises:
        UserError: unknown family, a layer that the decoder does not have, or attention that cannot be observed.
    """
    base = unwrap(model)
    decoder: Any = family_of(base.config).decoder(base)
    wanted = _check(layers, len(decoder.layers))
    found = Capture(read, gradients)
    with ExitStack() as undo:
        if not is_attached(decoder):
            undo.enter_context(attach(model))
        undo.callback(found._finish)
        if gradients:
            undo.enter_context(_frozen(decoder.parameters()))

        def note(handle: Any) -> None:
            undo.callback(handle.remove)

        note(decoder.layers[0].register_forward_pre_hook(found._enter, with_kwargs=True))
        for index in wanted:
            layer = decoder.layers[index]
            note(install_tap(layer.self_attn, _Listener(found, index)))
            if gradients:
                note(_first(layer, _NORMS).register_forward_hook(found._keep(index, "features")))
                note(_first(layer.self_attn, _OUTPUTS).register_forward_pre_hook(found._keep(index, "mixed")))
        yield found


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the block these parameters need no gradients: activations that only those would need are not kept."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _check(layers: Iterable[int] | None, depth: int) -> Sequence[int]:
    if layers is None:
        return range(depth)
    wanted = sorted(set(layers))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < depth:
        raise UserError(f"expected decoder layers from 0 to {depth - 1}; got {wanted}")
    return wanted


def _first(module: Any, names: Sequence[str]) -> nn.Module:
    for name in names:
        if isinstance(getattr(module, name, None), nn.Module):
            return getattr(module, name)
    raise UserError(f"{type(module).__name__} has none of {', '.join(names)}: its insides are not known here")
