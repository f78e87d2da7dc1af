"""What a training leaves behind: an adapter, a projector or a whole model, and how it was pruned.

Adapters are PEFT's own format and need nothing of this package: ``PeftModel.from_pretrained(model, folder)``. Beside
the weights lies ``pruning.json``, which ``eval.py model.adapter=FOLDER`` reads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lit_simignore.engine.atomic import write_json
from lit_simignore.engine.finetune_tuning import full_state, trained
from lit_simignore.engine.finetuner import LitFinetuner
from lit_simignore.engine.fingerprint import plain
from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.pruning import PRUNERS
from lit_simignore.types import UserError

ADAPTER, MODEL = "adapter", "model"
PRUNING = "pruning.json"
TENSORS = "trained.safetensors"
"""Weights of a projector, under the model's own names."""


def export(
    module: LitFinetuner, folder: Path, *, name: str, base: str, write: bool, whole: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write the trained weights and the pruning that they were trained with. Every process has to call it.

    Args:
        module: after its training; shards are gathered.
        folder: made, or replaced in one step.
        name: of the pruning method, as on the command line.
        base: what the weights belong to, for the record.
        write: whether this process is the one that writes.
        whole: write a model of its own instead of what was trained alone; adapters are merged into it.
        facts: plain values for the record beside the pruning, such as the step.

    Returns:
        ``folder``.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    if write:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    if whole or module.tuning.kind == "full":
        _write_model(module, scratch, write)
    elif module.tuning.kind == "lora":
        _write_adapter(module, scratch, base, write)
    else:
        state = full_state(module.vlm, set(trained(module.vlm)))
        if write:
            save_file(state, scratch / TENSORS, metadata={"base": base})
    if write:
        write_json(scratch / PRUNING, {**pruning_of(module, name, base), **(facts or {})})
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    return folder


def recorded(folder: Path) -> dict[str, Any]:
    """Which weights :func:`export` wrote: ``step``, ``ema``; with a best validation ``last_step`` and its value.

    Older records say nothing of it.
    """
    try:
        found = json.loads((folder / PRUNING).read_text(encoding="utf-8"))
        return {name: found[name] for name in ("step", "ema", "last_step", "validation") if name in found}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {folder / PRUNING} ({type(error).__name__}); pass overwrite=true") from error


def pruning_of(module: LitFinetuner, name: str, base: str) -> dict[str, Any]:
    """The contents of ``pruning.json``: the method at its target, as names and plain values."""
    names: dict[type, str] = {cls: part for part, cls in {**PRUNERS(), **INTERVENTIONS()}.items()}
    parts = [
        {"part": names[type(part)], "fields": {f.name: plain(getattr(part, f.name)) for f in fields(part)}}  # type: ignore[arg-type]
        for part in module.parts
    ]
    return {"format": 1, "method": name, "parts": parts, "schedule": plain_schedule(module), "base": base}


def plain_schedule(module: LitFinetuner) -> Mapping[str, Any]:
    """The pruning schedule as plain values."""
    wish = module.schedule
    return {"kind": wish.kind, "steps": wish.steps, "start": wish.start}


def load_trained(model: Any, folder: str) -> None:
    """Put on ``model`` what :func:`export` wrote, or any PEFT adapter.

    Raises:
        UserError: nothing that fits is in ``folder``.
    """
    path = Path(folder) / TENSORS
    if not path.is_file():
        try:
            model.load_adapter(folder)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"cannot put the adapter {folder!r} on the model: {_line(error)}") from error
        return
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}: {_line(error)}") from error
    own = dict(model.named_parameters())
    odd = sorted(name for name, value in state.items() if name not in own or own[name].shape != value.shape)
    if odd:
        raise UserError(f"{path} holds {odd[0]!r}, which does not fit this model; use the model that it was trained on")
    model.load_state_dict(state, strict=False)


def _write_adapter(module: LitFinetuner, folder: Path, base: str, write: bool) -> None:
    peft_model: Any = module.model
    state = full_state(peft_model, set(trained(peft_model)))
    if not write:
        return
    for config in peft_model.peft_config.values():
        config.base_model_name_or_path = base  # not the folder that it happened to be loaded from
    peft_model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in


def _write_model(module: LitFinetuner, folder: Path, write: bool) -> None:
    vlm: Any = module.vlm
    if module.tuning.kind == "lora":
        vlm = module.model.merge_and_unload()  # type: ignore[union-attr, operator]
    state = full_state(vlm, set(vlm.state_dict()))
    if write:
        vlm.save_pretrained(folder, state_dict=state)
        module.processor.save_pretrained(folder)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
