"""Everything that decides how the bundled model is trained. One dataclass, plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Alignment(str, Enum):
    """What teaches the vision side to name what it sees."""

    WORDS = "words"
    """Projected patches are pulled towards the input embeddings of the words for their object (``pico``)."""
    PROBE = "probe"
    """A linear head on the vision tower, thrown away afterwards, learns the same labels: nothing ties the projected
    patches to word embeddings (``pico-unaligned``)."""


@dataclass(kw_only=True)
class PicoConfig:
    """Recipe of the bundled model. The defaults are the ones that the shipped weights were trained with."""

    output: str = field(default="runs/pico", metadata={"help": "folder for checkpoints, log and the exported model"})
    alignment: Alignment = field(default=Alignment.WORDS, metadata={"help": "words (pico) or probe (pico-unaligned)"})
    seed: int = field(default=1, metadata={"help": "seed of the initial weights and of the stream of scenes"})
    steps: int = field(default=4700, metadata={"help": "optimiser steps in all"})
    text_steps: int = field(default=250, metadata={"help": "first steps: text-only questions, no pictures"})
    vision_steps: int = field(default=350, metadata={"help": "next steps: only the patch-label loss"})
    easy_steps: int = field(default=400, metadata={"help": "next steps: mostly questions without options"})
    hard_from: int = field(default=2000, metadata={"help": "step from which most questions ask for a letter"})
    final_from: int = field(default=3000, metadata={"help": "step from which positions make room for hops"})
    decay_steps: int = field(default=1500, metadata={"help": "last steps: learning rate falls linearly to zero"})
    warmup_steps: int = field(default=100, metadata={"help": "learning rate rises over this many steps"})
    batch_size: int = field(default=16, metadata={"help": "scenes per step"})
    slots: int = field(default=7, metadata={"help": "slots of 32 text tokens per scene; short questions share one"})
    text_rows: int = field(default=12, metadata={"help": "rows of text-only questions per step after text_steps"})
    muon_lr: float = field(default=2e-3, metadata={"help": "learning rate of the hidden matrices (Muon)"})
    adam_lr: float = field(default=2e-3, metadata={"help": "learning rate of embeddings, biases and norms (AdamW)"})
    weight_decay: float = field(default=0.05, metadata={"help": "decoupled weight decay of all matrices"})
    alignment_weight: float = field(default=0.5, metadata={"help": "weight of the patch-label loss beside the answers"})
    threads: int = field(default=0, metadata={"help": "CPU threads; 0 leaves torch's default"})
    resume: bool = field(default=True, metadata={"help": "go on from the last checkpoint in `output`, if there is one"})
