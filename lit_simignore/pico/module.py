"""The LightningModule that trains the bundled model."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_simignore.pico.architecture import NUM_VISUAL_TOKENS, WIDTH, build_model
from lit_simignore.pico.config import Alignment, PicoConfig
from lit_simignore.pico.losses import answer_loss, packed_mask, patch_probe_loss, patch_word_loss
from lit_simignore.pico.packing import KINDS, PicoBatch, PicoStream, Rows
from lit_simignore.shapes.vocabulary import BOS, COLOR_NAMES, SHAPE_NAMES, TOKEN_ID
from lit_simignore.surgery.calls import cache_in, cache_name

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PREFIX = 2 + NUM_VISUAL_TOKENS
"""``<s> USER:`` and the visual tokens."""
TEXT_PREFIX = 2


class LitPico(L.LightningModule):
    """From-scratch training. Two optimisers: Muon for hidden matrices, AdamW for everything else."""

    step: Tensor
    mean: Tensor
    std: Tensor
    color_words: Tensor
    shape_words: Tensor

    def __init__(self, config: PicoConfig) -> None:
        super().__init__()
        self.config = config
        self.save_hyperparameters({"pico": {k: _plain(v) for k, v in dataclasses.asdict(config).items()}})
        self.automatic_optimization = False
        self.model = build_model(config.seed)
        self.model.train()
        # Heads of 16 channels: on a CPU the fused kernel's backward takes twice as long as plain matmul and softmax.
        self.model.set_attn_implementation("eager")
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)
        self.register_buffer("color_words", torch.tensor([TOKEN_ID[c] for c in COLOR_NAMES]), persistent=False)
        self.register_buffer("shape_words", torch.tensor([TOKEN_ID[s] for s in SHAPE_NAMES]), persistent=False)
        self.probe = nn.Linear(WIDTH, len(COLOR_NAMES) + len(SHAPE_NAMES) + 1)
        self.accuracy: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    # ------------------------------------------------------------ data and optimisers

    def train_dataloader(self) -> DataLoader[PicoBatch]:
        return DataLoader(PicoStream(self.config, int(self.step)), batch_size=None)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        hidden, tables, vectors = [], [], []
        for name, parameter in self.named_parameters():
            if parameter.ndim != 2:
                vectors.append(parameter)
            elif "embed" in name or "lm_head" in name or name.startswith("probe"):
                tables.append(parameter)
            else:
                hidden.append(parameter)
        c = self.config
        muon = torch.optim.Muon(hidden, lr=c.muon_lr, weight_decay=c.weight_decay, adjust_lr_fn="match_rms_adamw")
        groups = [{"params": tables, "weight_decay": c.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [muon, torch.optim.AdamW(groups, lr=c.adam_lr, betas=(0.9, 0.98), fused=True)]

    def rate(self, step: int) -> float:
        """Factor on both learning rates: up, level, linearly down to zero."""
        c = self.config
        rising = min(1.0, (step + 1) / c.warmup_steps)
        falling = min(1.0, (c.steps - step) / max(1, c.decay_steps))
        return rising * falling

    # ------------------------------------------------------------ forward

    def _encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unprojected and projected patches, both ``(B, 144, 128)``."""
        normal = ((pixels.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
        hidden = self.model.model.vision_tower(normal).last_hidden_state[:, 1:]
        return hidden, self.model.model.multi_modal_projector(hidden)

    def _read_rows(self, rows: Rows, patches: Tensor | None) -> Tensor:
        """Hidden states ``(R, L, D)`` of the packed text; the picture, if any, is read once and cached."""
        decoder, embed = self.model.model.language_model, self.model.get_input_embeddings()
        cache, prefix = None, 0
        if patches is not None:
            prefix = PREFIX
            opening = embed(torch.tensor([BOS, TOKEN_ID["USER:"]], device=self.device)).expand(len(patches), -1, -1)
            picture = torch.cat([opening.to(patches.dtype), patches], 1)
            cache = cache_in(decoder(inputs_embeds=picture, use_cache=True))
            cache.batch_repeat_interleave(len(rows.ids) // len(patches))
        return decoder(
            inputs_embeds=embed(rows.ids),
            attention_mask=packed_mask(rows.segments, prefix),
            position_ids=rows.positions + (prefix or TEXT_PREFIX),
            use_cache=cache is not None,
            **{cache_name(decoder.forward): cache},
        ).last_hidden_state

    def training_step(self, batch: PicoBatch, batch_idx: int) -> None:
        step = int(self.step)
        optimizers: list[Any] = self.optimizers()  # type: ignore[assignment]
        for optimizer, base in zip(optimizers, (self.config.muon_lr, self.config.adam_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * self.rate(step)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            losses = self.losses(batch)
        self.manual_backward(torch.stack(list(losses.values())).sum())
        norm = nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.step += 1
        self.log_dict({f"loss/{k}": v.detach() for k, v in losses.items()} | {"grad_norm": norm})

    def losses(self, batch: PicoBatch) -> dict[str, Tensor]:
        """Every loss of one batch, already weighted."""
        found: dict[str, Tensor] = {}
        if batch.pixels is not None and batch.colors is not None and batch.shapes is not None:
            hidden, patches = self._encode_image(batch.pixels)
            alone = batch.rows is None
            weight = 1.0 if alone else self.config.alignment_weight
            found["patches"] = weight * self._patch_loss(hidden, patches, batch.colors, batch.shapes)
            if batch.rows is not None:
                found["answers"] = self._row_loss(batch.rows, patches)
        if batch.text is not None:
            main = self.config.text_steps <= int(self.step) < self.config.hard_from
            found["text"] = self._row_loss(batch.text, None) * (0.3 if main else 1.0)
        return found

    def _patch_loss(self, hidden: Tensor, patches: Tensor, colors: Tensor, shapes: Tensor) -> Tensor:
        if self.config.alignment is Alignment.PROBE:
            return patch_probe_loss(self.probe(hidden), len(COLOR_NAMES), colors, shapes)
        words = self.model.get_input_embeddings().weight
        background = TOKEN_ID["background"]
        return patch_word_loss(patches, words, self.color_words, self.shape_words, background, colors, shapes)

    def _row_loss(self, rows: Rows, patches: Tensor | None) -> Tensor:
        hidden = self._read_rows(rows, patches)[:, :-1]
        scored = rows.weights[:, 1:] > 0
        logits = self.model.lm_head(hidden[scored])
        targets = rows.ids[:, 1:][scored]
        weights = rows.weights[:, 1:][scored]
        self._count(logits.argmax(-1) == targets, rows.kinds[:, 1:][scored], weights)
        return answer_loss(logits, targets, weights)

    @torch.no_grad()
    def _count(self, right: Tensor, kinds: Tensor, weights: Tensor) -> None:
        if int(self.step) % 4:
            return
        for index in kinds.unique().tolist():
            chosen = (kinds == index) & (weights == 1)
            sums = self.accuracy[KINDS[index]]
            sums[0] = 0.97 * sums[0] + float(right[chosen].sum())
            sums[1] = 0.97 * sums[1] + int(chosen.sum())

    def progress(self) -> dict[str, float]:
        """Running token accuracy per question kind on data never seen before."""
        return {kind: right / total for kind, (right, total) in self.accuracy.items() if total}


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
