"""The keys that the page's command takes."""

from __future__ import annotations

from dataclasses import dataclass

from lit_simignore.config.schema import ModelConfig
from lit_simignore.config.typed import ConfigError

MAX_PORT = 65_535


@dataclass(kw_only=True)
class ExploreConfig:
    """Look at one image and one question under any method, in a browser on this machine.

    Args:
        model: the model that answers.
        port: port on 127.0.0.1; 0 takes a free one.
        device: auto takes the accelerator where there is one; else cpu, cuda, cuda:1, mps, ...
        max_new_tokens: tokens generated at most per answer.
        max_upload_mib: largest image file that is taken, in MiB.
        browser: open the page in the default browser once the server is up.
    """

    model: ModelConfig
    port: int = 7860
    device: str = "auto"
    max_new_tokens: int = 64
    max_upload_mib: int = 32
    browser: bool = False


def check(config: ExploreConfig) -> None:
    """Refuse what a type cannot say.

    Raises:
        ConfigError: one line on the first number that is out of range.
    """
    if not 0 <= config.port <= MAX_PORT:
        raise ConfigError("port", f"expected 0 (any free one) to {MAX_PORT}, got {config.port}")
    for key, value in (("max_new_tokens", config.max_new_tokens), ("max_upload_mib", config.max_upload_mib)):
        if value < 1:
            raise ConfigError(key, f"expected at least 1, got {value}")
