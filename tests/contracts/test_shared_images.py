"""Questions about one picture that share its pass through the model, against separate prompts, on every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_simignore.engine import shared_images
from lit_simignore.engine.generation import Answers, Prompts, answer, generate, prompts_of
from lit_simignore.engine.shared_images import answer_shared, can_share, digest, find_sharing
from lit_simignore.surgery.load import load
from lit_simignore.types import Role, Sample, Segment
from tests.tiny_checkpoints import PROCESSORS, save_tiny_checkpoint
from tests.tiny_models import tiny_image

NOT_SHARED = {"gemma3", "paligemma", "instructblip"}
"""Attention that looks ahead, or visual tokens that depend on the question."""
QUICK = {"llava", "qwen2_5_vl", "paligemma"}
ASKED = [(0, "Is there a red circle ?"), (1, "Why ?"), (0, "Is there a long blue line in this image ?"),
         (1, "Is there a red circle ?"), (2, "What is this ?"), (0, "Is there a red circle ?")]  # fmt: skip


def picture(number: int) -> Image.Image:
    return tiny_image(number + 1).resize((24 + 8 * number, 24))


def asked() -> tuple[list[Sample], list[list[Image.Image]]]:
    samples = [
        Sample(f"q{i}", (Segment(text, Role.QUESTION),), (picture(image),)) for i, (image, text) in enumerate(ASKED)
    ]
    return samples, [[picture(image)] for image, _ in ASKED]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in sorted(PROCESSORS)],
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    folder = save_tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, *load(folder)


def logits_of(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Logits of every later call of ``generate``, ``(B, T, V)``, before any special token is chosen."""
    found: list[Tensor] = []

    def noted(model: Any, processor: Any, prompts: Prompts, **settings: Any) -> Any:
        asked_for = settings.pop("return_dict_in_generate", False)
        out = generate(model, processor, prompts, return_dict_in_generate=True, output_logits=True, **settings)
        found.append(torch.stack(out.logits, dim=1))
        return out if asked_for else out.sequences

    monkeypatch.setattr(shared_images, "generate", noted)
    monkeypatch.setattr("lit_simignore.engine.generation.generate", noted)
    return found


def test_answers_are_those_of_separate_prompts(family: tuple[str, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    name, model, processor = family
    assert can_share(model) == (name not in NOT_SHARED)
    if name in NOT_SHARED:
        return
    samples, images = asked()
    prompts = prompts_of(processor, samples, images, model)
    sharing = find_sharing(model, prompts, [digest(row) for row in images])
    assert sharing is not None and sharing.leaders == (0, 1, 4) and sharing.member == (0, 1, 0, 1, 2, 0)
    model.generation_config.eos_token_id = None
    logits = logits_of(monkeypatch)
    plain = answer(model, processor, prompts, (), 6)
    shared = answer_shared(model, processor, prompts, images, sharing, 6)
    separate, beginnings, together = logits
    assert beginnings.shape[:2] == (3, 1) and separate.shape[1] == 6
    assert float((separate - together).abs().max()) < 1e-4
    assert_same(plain, shared)


def assert_same(plain: Answers, shared: Answers) -> None:
    assert plain.outputs == shared.outputs and plain.finite == shared.finite
    assert all(torch.equal(one, other) for one, other in zip(plain.tokens, shared.tokens, strict=True))
    for name in ("num_visual", "grids", "budgets"):
        assert getattr(plain.trace, name) == getattr(shared.trace, name), name
