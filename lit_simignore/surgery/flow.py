"""Information flow of whole answers: one forward and one backward pass of a batch, a few small tables per sample."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.attribution.cam import MODES, smooth
from lit_simignore.attribution.heads import column_means, image_attention
from lit_simignore.attribution.saliency import mean_saliency
from lit_simignore.attribution.shares import Part, attention_shares
from lit_simignore.attribution.targets import answer_score, released_score
from lit_simignore.surgery.attach import attach, is_attached, unwrap
from lit_simignore.surgery.capture import Capture, SeenLayer, capture
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.forced import Forced, teacher_forced
from lit_simignore.surgery.layout import prompt_parts
from lit_simignore.surgery.spans import Spans
from lit_simignore.types import UserError

QUERIES = ("answer", "prompt")
TARGETS = ("logit", "log_prob")


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """How one answer came about. N layers, H heads, I visual tokens of the sample before pruning; float32 on the CPU.

    Args:
        layers: the 0-based decoder layers, ascending: the first dimension of everything.
        shares: ``(N, 4)`` attention of the asked queries on the system part, the image, the user's text and the output
            so far (:class:`~lit_simignore.attribution.shares.Part`), mean over heads and queries; rows sum to 1.
        even: ``(N, 4)`` what the shares would be if every query attended evenly to all that it sees. Queries of models
            whose prompts see each other in both directions see more than this counts.
        attention: ``(N, H, I)`` attention of the asked queries on every visual token, mean over queries; 0 where a
            token was pruned. Its sum over I, averaged over H, is the image's share.
        received: ``(N, H, I)`` attention that every visual token gets from the tokens behind it, mean over those.
        visible: ``(N, I)`` bool, the tokens that the layer computes.
        grids: (rows, cols) of every image; empty where visual tokens form no grid.
        length: real tokens of prompt and answer.
        score: the target's value; NaN without gradients.
        cam: ``(N, I)`` LLaVA-CAM, not normalised; ``None`` without gradients.
        saliency: ``(N, I)`` ``|attention * gradient|`` of the asked queries, mean over heads and queries; likewise.
    """

    layers: tuple[int, ...]
    shares: Tensor
    even: Tensor
    attention: Tensor
    received: Tensor
    visible: Tensor
    grids: tuple[tuple[int, int], ...]
    length: int
    score: float = float("nan")
    cam: Tensor | None = None
    saliency: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    """Noise for :func:`information_flow`: maps are means over noisy copies of the pictures.

    Args:
        sigma: standard deviation, in units of the processed pixels.
        num_samples: copies; each costs a forward and a backward pass.
        seed: of the noise.
    """

    sigma: float = 0.1
    num_samples: int = 8
    seed: int = 0


def information_flow(
    model: nn.Module,
    inputs: Mapping[str, Any],
    answers: Sequence[Tensor],
    *,
    parts: Sequence[object] = (),
    spans: Spans | None = None,
    layers: Sequence[int] | None = None,
    queries: str = "answer",
    target: str = "logit",
    mode: str = "grad_cam",
    gradients: bool = True,
    smoothing: SmoothGrad | None = None,
) -> list[Flow]:
    """Where the tokens of given answers come from, for every sample of a batch.

    Prompt and answer are read in one teacher-forced pass. Gradients are those of the answer's score, read where the
    answer is predicted, by a single backward pass for all layers and samples.

    Args:
        model: a Hugging Face model of a known family; it is left as it was.
        inputs: of :func:`~lit_simignore.surgery.prepare.prepare`, on the model's device.
        answers: ``(T,)`` token ids per sample, as generated or as they should be, without end token or with it.
        parts: pruners and interventions to attach meanwhile, as in :func:`~lit_simignore.surgery.attach.attach`;
            leave them out inside an ``attach`` block.
        spans: labels of the prompts, for pruners; pruners that read the prompt need them here, lest they read the
            answer.
        layers: 0-based; ``None`` for all.
        queries: ``answer``: all tokens that predict the answer; ``prompt``: the prompt's last token alone.
        target: ``logit`` (the paper's) or ``log_prob``.
        mode: ``grad_cam``, or ``released``: the map and the target of the released LLaVA-CAM, which reads logits in
            coordinates where an image is one token (see :func:`~lit_simignore.attribution.targets.released_score`);
            for comparison only.
        gradients: False leaves maps and saliency out and runs without a graph.
        smoothing: SmoothGrad for the maps; the paper describes it, its code never calls it.

    Raises:
        UserError: a choice that there is not; pruners without spans; an empty answer; prompts padded on the right.
    """
    _check(queries, target, mode, parts, spans)
    forced = teacher_forced(model, inputs, answers)
    asked = _Asked(forced, queries, target, mode, layers, gradients)
    with ExitStack() as undo:
        base = unwrap(model)
        if not is_attached(family_of(base.config).decoder(base)):
            undo.enter_context(attach(model, *parts, spans=spans))
        elif parts:
            raise UserError("this model is attached already; leave parts= out, or leave the attach block")
        seen, scores = asked.run(model)
        found = [asked.flow(seen, row, scores[row]) for row in range(len(answers))]
        if smoothing is None or not gradients:
            return found
        return [replace(flow, cam=cam) for flow, cam in zip(found, asked.smoothed(model, smoothing), strict=True)]


class _Asked:
    """What is asked of one batch."""

    def __init__(
        self, forced: Forced, queries: str, target: str, mode: str, layers: Sequence[int] | None, gradients: bool
    ) -> None:
        self.forced, self.queries, self.target, self.mode = forced, queries, target, mode
        self.layers, self.gradients = layers, gradients

    def columns(self, row: int) -> Tensor:
        """``(R,)`` columns of the asked queries."""
        rows = self.forced.rows(row)
        return rows if self.queries == "answer" else rows[:1]

    def run(self, model: nn.Module, pixels: Tensor | None = None) -> tuple[Capture, list[float]]:
        """One forward and, with gradients, one backward pass; the scores of the answers."""
        given = dict(self.forced.inputs) if pixels is None else {**self.forced.inputs, "pixel_values": pixels}
        read = self.read if pixels is None else None
        with capture(model, layers=self.layers, read=read, gradients=self.gradients) as seen:
            self._seen = seen
            with torch.set_grad_enabled(self.gradients):
                logits = model(**given, **self._options(model)).logits
                if not self.gradients:
                    return seen, [float("nan")] * len(self.forced.answers)
                scores = self._scores(logits, seen)
                seen.differentiate(scores.sum())
        return seen, scores.tolist()

    def _options(self, model: nn.Module) -> dict[str, Any]:
        """No cache, and no logits but those of the answers, where the model can be told."""
        taken = inspect.signature(unwrap(model).forward).parameters
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in taken else {}
        if "logits_to_keep" in taken and self.mode != "released":
            options["logits_to_keep"] = max(map(len, self.forced.answers)) + 1
        return options

    def _scores(self, logits: Tensor, seen: Capture) -> Tensor:
        skipped = self.forced.inputs["input_ids"].shape[1] - logits.shape[1]
        found = []
        for row, answer in enumerate(self.forced.answers):
            if self.mode == "released":
                start = int(seen.alive[row].int().argmax())
                found.append(released_score(logits[row, start:], answer, self._text_length(seen, row)))
            else:
                found.append(answer_score(logits[row], answer, self.forced.first - skipped, kind=self.target))
        return torch.stack(found)

    def _text_length(self, seen: Capture, row: int) -> int:
        """Tokens of the prompt with every image as one placeholder."""
        visual, alive = seen.visual[row], seen.alive[row].clone()
        alive[self.forced.first :] = False
        images = int((visual.int().diff(prepend=visual.new_zeros(1).int()) == 1).sum())
        return int(alive.sum()) - int(visual.sum()) + images

    # -- what becomes of a layer

    def read(self, layer: SeenLayer) -> list[tuple[Tensor, ...]]:
        """Per sample shares, even shares, attention on the image, and attention received; the layer is then let go."""
        seen = self._seen
        whole = prompt_parts(seen.visual, seen.alive, self.forced.first)
        return [self._read_row(layer, row, whole[row]) for row in range(len(self.forced.answers))]

    def _read_row(self, layer: SeenLayer, row: int, whole: Tensor) -> tuple[Tensor, ...]:
        layout, columns = layer.layout, self.columns(row)
        count = self._seen.num_visual(row)
        attention = layer.attention(row, columns)
        parts = layout.parts(row, whole)
        slots = torch.arange(len(parts), device=parts.device)
        before = (slots <= layout.slots_of(row, columns)[:, None]) & layout.alive[row]
        even = attention_shares(before / before.sum(dim=1, keepdim=True), parts).mean(dim=0)
        visual = layout.visual[row]
        if count and bool(visual.any()):
            received = _spread(column_means(layer.chunks(row), visual), visual)
        else:
            received = attention.new_zeros(attention.shape[0], len(visual))
        looks = _spread(image_attention(attention, visual), visual)
        found = (
            attention_shares(attention, parts).mean(dim=(0, 1)),
            even,
            layout.to_image(looks, row, count),
            layout.to_image(received, row, count),
            layout.visible(row, count),
        )
        return tuple(value.cpu() for value in found)

    def flow(self, seen: Capture, row: int, score: float) -> Flow:
        """The tables of one sample."""
        rows = [layer.read[row] for layer in seen.layers.values()]
        shares, even, attention, received, visible = (torch.stack(table) for table in zip(*rows, strict=True))
        cam = saliency = None
        if self.gradients:
            cam = self._cam(seen, row)
            saliency = torch.stack([self._saliency(seen, index, row) for index in seen.layers])
        length = int(seen.alive[row].sum())
        tables = {"shares": shares, "even": even, "attention": attention, "received": received, "visible": visible}
        return Flow(
            layers=tuple(seen.layers), **tables, grids=seen.grids(row), length=length, score=score, cam=cam,
            saliency=saliency,
        )  # fmt: skip

    def _cam(self, seen: Capture, row: int) -> Tensor:
        return torch.stack([seen.activation(index, row, mode=self.mode) for index in seen.layers])

    def _saliency(self, seen: Capture, index: int, row: int) -> Tensor:
        heads = seen.saliency(index, row, self.columns(row))
        return seen.layers[index].layout.to_image(mean_saliency(heads).mean(dim=0), row, seen.num_visual(row)).cpu()

    def smoothed(self, model: nn.Module, smoothing: SmoothGrad) -> list[Tensor]:
        """``(N, I)`` maps per sample, means over noisy pictures."""
        counts: list[int] = []

        def maps(pixels: Tensor) -> Tensor:
            seen, _ = self.run(model, pixels)
            found = [self._cam(seen, row) for row in range(len(self.forced.answers))]
            counts[:] = [cam.shape[1] for cam in found]
            return torch.cat(found, dim=1)

        if "pixel_values" not in self.forced.inputs:
            raise UserError("SmoothGrad adds noise to pixel_values, which these inputs do not have")
        pixels, noise = self.forced.inputs["pixel_values"], smoothing
        found = smooth(maps, pixels, sigma=noise.sigma, num_samples=noise.num_samples, seed=noise.seed)
        return list(found.split(counts, dim=1))


def _spread(values: Tensor, visual: Tensor) -> Tensor:
    """``(..., n)`` with ``values`` ``(..., I')`` at the visual slots."""
    full = values.new_zeros(*values.shape[:-1], len(visual))
    full[..., visual] = values
    return full


def _check(queries: str, target: str, mode: str, parts: Sequence[object], spans: Spans | None) -> None:
    for name, value, valid in (("queries", queries, QUERIES), ("target", target, TARGETS), ("mode", mode, MODES)):
        if value not in valid:
            raise UserError(f"{name} must be one of {', '.join(valid)}; got {value!r}")
    if parts and spans is None:
        raise UserError("with parts=, pass spans= from prepare(processor, samples): pruners must not read the answer")


PARTS = tuple(part.name.lower() for part in Part)
"""Names of the last dimension of :attr:`Flow.shares`."""
