"""Hugging Face's vision models, from a configuration: they convert, agree at γ = 0, and train a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import stocnoise
from benchmarks.count import count

pytestmark = pytest.mark.filterwarnings("ignore")

transformers = pytest.importorskip("transformers")

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def _vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**_VIT))


def _clip() -> nn.Module:
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**_VIT, projection_dim=16))


def _swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4
    )
    return transformers.SwinForImageClassification(config)


def _convnext() -> nn.Module:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    return transformers.ConvNextForImageClassification(config)


def _resnet() -> nn.Module:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 1], layer_type="bottleneck")
    return transformers.ResNetForImageClassification(config)


def _segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    return transformers.SegformerForSemanticSegmentation(config)


BUILDERS = [_vit, _clip, _swin, _convnext, _resnet, _segformer]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__[1:])
def test_every_activation_becomes_a_site_and_a_step_trains(build: Callable[[], nn.Module]) -> None:
    teacher = build().eval()
    x = torch.randn(2, 3, 32, 32)
    student = stocnoise.convert(teacher, {"pixel_values": x}, gamma=0.1)
    layers = dict(stocnoise.stochastic_layers(student))
    for training in (True, False):
        before, after = count(build(), (x,), training=training), count(student, (x,), training=training)
        # CLIP's QuickGELU calls no function that the count knows by name.
        assert after.activations == 0
        assert after.stochastic.total() >= before.activations
        assert set(after.stochastic.values()) == {1}
    student.load_state_dict(teacher.state_dict())

    student.eval()
    with stocnoise.deterministic(student), torch.no_grad():
        theirs, ours = teacher(pixel_values=x), student(pixel_values=x)
    assert all(torch.equal(a, b) for a, b in zip(theirs.to_tuple(), ours.to_tuple(), strict=True))

    student.train()
    student(pixel_values=x)[0].float().square().mean().backward()
    assert all(layer.sigma.gt(0).any() for layer in layers.values())
    with torch.no_grad():
        student.eval()
        assert not torch.equal(student(pixel_values=x)[0], student(pixel_values=x)[0])


def test_from_a_saved_model_and_back(tmp_path: object) -> None:
    """`save_pretrained` of the reverted student is an ordinary checkpoint of the model's class."""
    teacher = _vit()
    student = stocnoise.convert(teacher, {"pixel_values": torch.zeros(2, 3, 32, 32)})
    stocnoise.revert(student).save_pretrained(str(tmp_path))
    again = transformers.ViTForImageClassification.from_pretrained(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), teacher.parameters(), strict=True))
