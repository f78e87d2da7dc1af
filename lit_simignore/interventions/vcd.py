"""VCD: what is likely with the image but not with noise over it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.interventions._contrast import cut_implausible, extrapolate
from lit_simignore.interventions.base import Branch, LogitsIntervention, check_number, check_whole
from lit_simignore.types import UserError

NUM_STEPS = 1000
"""Steps of the noise schedule."""


@dataclass(kw_only=True)
class VCD(LogitsIntervention):
    """Move every prediction away from what the model says of the same prompt with a noisy image.

    Scores are ``(1 + alpha) l - alpha l'``, with ``l`` and ``l'`` the logits with the clean and the noisy image;
    tokens that the clean run finds implausible are ruled out. Temperature, top-k and sampling, or the greedy choice,
    come afterwards.

    Args:
        alpha: strength of the contrast; 0 only cuts implausible tokens.
        plausibility: smallest probability of a token as a fraction of the likeliest token's (the paper's beta).
        noise_step: how far the image is diffused, 0 to 999 of 1000 steps. 0 is almost clean.
        steps: which generated tokens are contrasted: all, or first. A yes or no needs no more than the first.
        seed: of the noise; every sample draws its own from its key, whatever batch it is in.

    Reference:
        Leng et al., "Mitigating Object Hallucinations in Large Vision-Language Models through Visual Contrastive
        Decoding", CVPR 2024, arXiv:2311.16922, Eq. 3 and 5-7; alpha 1, beta 0.1, step 500. ``preset("paper")``
        is the default. ``preset("released")`` is the authors' code before October 2024, where the second run went on
        with the first one's cache: from the second token on both saw the clean image, so only the first token was
        contrasted (their issue 13). Their code samples; a greedy choice among the same scores works as well.
        They draw noise from the global random state, hence anew in every run.
    """

    branch: ClassVar[Branch] = Branch.NOISY_IMAGE
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"paper": {}, "released": {"steps": "first"}})

    alpha: float = 1.0
    plausibility: float = 0.1
    noise_step: int = 500
    steps: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("VCD", "alpha", self.alpha, 0)
        check_number("VCD", "plausibility", self.plausibility, 0, 1)
        check_whole("VCD", "noise_step", self.noise_step, 0)
        if self.noise_step >= NUM_STEPS:
            raise UserError(f"VCD.noise_step must be 0 to {NUM_STEPS - 1}; got {self.noise_step}")
        if self.steps not in ("all", "first"):
            raise UserError(f"VCD.steps must be one of all, first; got {self.steps!r}")

    def contrasts_at(self, step: int) -> bool:
        return self.alpha != 0 and (self.steps == "all" or step == 0)

    def second_pixels(self, pixels: Tensor, key: str) -> Tensor:
        """``pixels`` diffused to ``noise_step``, in their own dtype and on their own device."""
        digest = hashlib.sha256(f"vcd\x1f{self.seed}\x1f{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return diffuse(pixels, self.noise_step, generator)

    def combine(self, logits: Tensor, second: Tensor) -> Tensor:
        """``(1 + alpha) l - alpha l'`` where the clean run finds the token plausible."""
        clean = logits.float()
        return cut_implausible(extrapolate(clean, second.float(), self.alpha), clean, self.plausibility)


def diffuse(pixels: Tensor, step: int, generator: torch.Generator) -> Tensor:
    """``sqrt(a) pixels + sqrt(1 - a) noise`` with standard normal noise and ``a`` the share of signal at ``step``.

    Args:
        pixels: normalised pixel values, any shape.
        step: 0-based step of :func:`signal_shares`.
        generator: on the CPU, so that devices draw the same noise.
    """
    share = float(signal_shares()[step])
    noise = torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return (share**0.5 * pixels.float() + (1 - share) ** 0.5 * noise).to(pixels.dtype)


def signal_shares(num_steps: int = NUM_STEPS) -> Tensor:
    """``(num_steps,)`` float64: what is left of the image's variance after each step of diffusion.

    The variance added in a step rises from 1e-5 to 5e-3 along a sigmoid between -6 and 6.
    """
    ramp = torch.sigmoid(torch.linspace(-6, 6, num_steps, dtype=torch.float64))
    return (1 - (1e-5 + ramp * (5e-3 - 1e-5))).cumprod(dim=0)
