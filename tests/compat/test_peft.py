"""LoRA by peft on a student."""

from __future__ import annotations

import pytest
import torch

import stocnoise
from tests.compat.models import SITES, images, sigmas, small_student

peft = pytest.importorskip("peft")


def test_lora_trains_its_own_weights_and_sigma() -> None:
    student = small_student(training=True)
    model = peft.get_peft_model(student, peft.LoraConfig(target_modules=["fc1", "conv2"], r=2))
    assert len(list(stocnoise.stochastic_layers(model))) == SITES
    before = sigmas(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for _ in range(2):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert all(not torch.equal(a, b) for a, b in zip(before, sigmas(model), strict=True))
    merged = model.merge_and_unload().eval()
    assert len(list(stocnoise.stochastic_layers(merged))) == SITES
    assert not torch.equal(merged(images()), merged(images()))


def test_a_model_with_lora_converts() -> None:
    from tests.compat.models import Small

    model = peft.get_peft_model(Small(), peft.LoraConfig(target_modules=["fc1"], r=2))
    assert len(list(stocnoise.stochastic_layers(stocnoise.convert(model, images())))) == SITES
