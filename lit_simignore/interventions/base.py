"""What an intervention is: a rule that changes how attention heads look at visual tokens, without dropping any."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass


@dataclass(kw_only=True)
class Intervention(ABC):  # noqa: B024 - the first intervention fixes what all of them must answer
    """Base of every rule that edits attention. A plain dataclass, like a pruner: its fields are its configuration."""
