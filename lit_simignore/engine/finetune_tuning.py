"""Which weights of a model are fine-tuned: low-rank adapters, the projector, or everything behind the vision tower."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lit_simignore.surgery.attach import unwrap
from lit_simignore.surgery.families import family_of
from lit_simignore.types import UserError

KINDS = ("lora", "projector", "full")

PROJECTORS = ("multi_modal_projector", "connector", "visual.merger", "visual.deepstack_merger_list")
"""How the known families call what maps features of the vision tower into the decoder's space."""


_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is trained.

    Args:
        kind: ``lora`` (adapters in the decoder), ``projector`` (nothing else), or ``full`` (decoder, output layer and
            projector).
        rank: of the adapters.
        alpha: scale of the adapters is ``alpha / rank``.
        dropout: on the input of the adapters.
        targets: last names of the decoder's linear layers that get adapters.
        projector: with ``lora``, train the projector as well; it is saved with the adapter.
        vision: with ``full``, train the vision tower as well.
        gradient_checkpointing: compute activations twice instead of keeping them.

    Raises:
        UserError: an unknown kind or a value out of range.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    projector: bool = False
    vision: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"tuning must be one of {', '.join(KINDS)}; got {self.kind!r}")
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise UserError(f"expected rank >= 1 and 0 <= dropout < 1; got rank={self.rank}, dropout={self.dropout}")
        if self.kind == "lora" and not self.targets:
            raise UserError("expected at least one name in targets; got none: such as q_proj, v_proj")


def prepare_tuning(model: nn.Module, tuning: Tuning) -> nn.Module:
    """Mark what is trained, in place; with ``lora`` the result is PEFT's wrapper of the same model.

    The vision tower stays frozen unless asked for: the last layers of most towers are never used, and a parameter
    without a gradient would stop DDP.

    Raises:
        UserError: PEFT is missing, nothing is called as ``targets`` say, no projector is known, or quantized weights
            are to be trained themselves.
    """
    base: Any = unwrap(model)
    if getattr(base, "is_quantized", False):
        if tuning.kind == "full":
            raise UserError("quantized weights cannot be trained themselves; set tuning to lora")
        base = _peft().prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    base.requires_grad_(False)
    tuned = base
    if tuning.kind == "lora":
        tuned = _with_adapters(base, tuning)
    elif tuning.kind == "projector":
        for _, module in projectors(base):
            module.requires_grad_(True)
    else:
        _free(base, tuning.vision)
    if tuning.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    tuned.train()
    return tuned


def keep_exact(model: nn.Module, precision: str) -> None:
    """Hold what is trained in float32 under mixed precision, whatever type the checkpoint was loaded in.

    PEFT does so for adapters alone.

    Args:
        model: from :func:`prepare_tuning`.
        precision: of the trainer.

    Raises:
        UserError: as :func:`check_exact`.
    """
    for value in trained(model).values():
        check_exact(value.dtype, precision)
        if value.dtype in _HALF and precision.endswith("-mixed"):
            value.data = value.data.float()


def check_exact(dtype: torch.dtype, precision: str | None) -> None:
    """Refuse to train weights of a half type beside frozen ones of that type, unless it was asked for.

    A step of AdamW is often smaller than the distance of two numbers in bfloat16, and then moves nothing. ``bf16-true``
    and ``16-true`` are taken at their word.

    Raises:
        UserError: says which precision to take.
    """
    if dtype not in _HALF or str(precision).endswith("-mixed") or precision in ("bf16-true", "16-true"):
        return
    name = str(dtype).removeprefix("torch.")
    raise UserError(
        f"the model was loaded in {name}, in which trained weights would be rounded at every step; use "
        "trainer.precision=bf16-mixed, which keeps them in float32, or model.dtype=float32"
    )


def projectors(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules between vision tower and decoder, with their names.

    Raises:
        UserError: none is known in this model.
    """
    found = [(name, module) for name, module in base.named_modules() if name.endswith(PROJECTORS)]
    if not found:
        raise UserError(f"no projector found in {type(base).__name__}; expected one of {', '.join(PROJECTORS)}")
    yield from found


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def outside_decoder(base: nn.Module) -> tuple[str, ...]:
    """Names of trained parameters that a batch without pictures would leave without a gradient."""
    inside = {id(value) for value in family_of(base.config).decoder(base).parameters()}
    return tuple(name for name, value in trained(base).items() if id(value) not in inside)


def _free(base: Any, vision: bool) -> None:
    decoder = family_of(base.config).decoder(base)
    for module in (decoder, base.get_output_embeddings(), *(module for _, module in projectors(base))):
        if module is not None:
            module.requires_grad_(True)
    if vision:
        base.requires_grad_(True)


def _with_adapters(base: Any, tuning: Tuning) -> Any:
    peft = _peft()
    decoder = family_of(base.config).decoder(base)
    prefix = next(name for name, module in base.named_modules() if module is decoder)
    names = "|".join(map(_escaped, tuning.targets))
    config = peft.LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        # Bare names would be found in the vision tower as well.
        target_modules=rf"{_escaped(prefix)}\.layers\.\d+\.(.*\.)?({names})",
        modules_to_save=[name for name, _ in projectors(base)] if tuning.projector else None,
    )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        raise UserError(
            f"no layer of the decoder is called {' or '.join(tuning.targets)}; set tuning.targets to names of its "
            "linear layers"
        ) from error


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise UserError("adapters need the package peft: pip install -e '.[lora]'") from error


def full_state(model: nn.Module, names: set[str]) -> dict[str, torch.Tensor]:
    """The named tensors of ``model`` on the CPU, whole in every process, whether they are sharded or not."""
    found = {}
    for name, value in model.state_dict().items():
        if name in names:
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            found[name] = whole.detach().cpu().clone()
    return found


@torch.no_grad()
def put_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """The reverse of :func:`full_state`, in every process: parameters that ``state`` names get its values."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, value in model.named_parameters():
        if name in state:
            whole = state[name].to(device=value.device, dtype=value.dtype)
            if isinstance(value, DTensor):
                whole = distribute_tensor(whole, value.device_mesh, value.placements)
            value.copy_(whole)
