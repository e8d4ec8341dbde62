"""Models of torchvision and timm: the number of call sites, the same function at γ = 0, noise, copies, states."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import activation_calls, assert_noisy, assert_same_function, layers, tensors

# Library, name, side of the smallest image that runs, calls in eval, further calls in training.
MODELS = [
    ("torchvision", "resnet18", 32, 17, 0),
    ("torchvision", "resnet50", 32, 49, 0),
    ("torchvision", "googlenet", 48, 57, 4),
    ("torchvision", "inception_v3", 96, 94, 2),
    ("torchvision", "densenet121", 32, 121, 0),
    ("timm", "res2net50_26w_4s", 32, 81, 0),
    ("timm", "hrnet_w18_small", 32, 75, 0),
    ("timm", "dla34", 32, 33, 0),
    ("timm", "mobilevitv2_100", 64, 34, 0),
    ("timm", "convnext_tiny", 32, 18, 0),
    ("timm", "vit_tiny_patch16_224", 32, 12, 0),
    ("timm", "efficientnet_b0", 32, 49, 0),
    ("timm", "coat_tiny", 64, 26, 0),
]


def build(library: str, name: str, side: int) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        import timm

        size = {"img_size": side} if name.startswith(("vit", "coat")) else {}
        return timm.create_model(name, num_classes=10, **size)
    import torchvision

    extra = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **extra)


def draw(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(5)
    with torch.no_grad():
        return tensors(model(x))[0]


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name", "side", "in_eval", "only_in_training"), MODELS)
def test_a_real_model(library: str, name: str, side: int, in_eval: int, only_in_training: int) -> None:
    teacher, x = build(library, name, side).eval(), torch.randn(2, 3, side, side)
    student = stocnoise.convert(teacher, train_image(name, x))
    found = layers(student)
    assert activation_calls(teacher, x) == in_eval
    assert len(found) == in_eval + only_in_training
    assert not student.training

    stocnoise.set_gamma(student, 0.0)
    assert torch.equal(draw(student, x), draw(teacher, x))
    assert set(teacher.state_dict()) < set(student.state_dict())

    stocnoise.set_gamma(student, 0.1)
    stocnoise.calibrate(student, [x])
    assert {layer.num_batches_tracked.item() for layer in found.values()} <= {0, 1}
    assert sum(layer.num_batches_tracked.item() for layer in found.values()) == in_eval
    with torch.no_grad():
        assert not torch.equal(student(x), student(x))
        student.train()
        batch = train_image(name, x)
        assert not torch.equal(tensors(student(batch))[0], tensors(student(batch))[0])
        student.eval()

    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        assert torch.equal(draw(other, x), draw(student, x))
    student.load_state_dict(teacher.state_dict(), strict=True)
    fresh = stocnoise.convert(teacher, train_image(name, x))
    fresh.load_state_dict(student.state_dict(), strict=True)
    assert torch.equal(draw(fresh, x), draw(student, x))
    back = stocnoise.revert(student)
    teacher.load_state_dict(back.state_dict(), strict=True)
    assert torch.equal(draw(back, x), draw(teacher, x))
    assert not layers(back) and type(back) is type(teacher)


def train_image(name: str, x: Tensor) -> Tensor:
    """The auxiliary heads of these two are built for one size of image."""
    side = {"googlenet": 224, "inception_v3": 299}.get(name)
    return x if side is None else torch.randn(2, 3, side, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_models_of_timm_need_no_example_input(name: str) -> None:
    import timm

    teacher = timm.create_model(name)
    assert len(stocnoise.find_sites(teacher)) == len(layers(stocnoise.convert(teacher)))


@pytest.mark.parametrize("apply_act", [True, False])
@pytest.mark.parametrize("act", ["relu", "silu", "leaky_relu", None])
def test_fused_normalisation_and_activation(act: str | None, apply_act: bool) -> None:
    """timm's BatchNormAct2d: the normalisation stays one, and its activation gets a layer."""
    from timm.layers import BatchNormAct2d

    settings = {"act_layer": act} if act else {}
    teacher = nn.Sequential(nn.Conv2d(4, 6, 1), BatchNormAct2d(6, apply_act=apply_act, **settings))
    x = torch.randn(2, 4, 5, 5)
    if not apply_act:
        assert stocnoise.find_sites(teacher, x) == []
        return
    student = stocnoise.convert(teacher, x)
    (layer,) = layers(student).values()
    assert layer.num_channels == 6
    assert type(student[1]) is BatchNormAct2d
    assert_same_function(teacher, student, x)
    assert_noisy(student, x)
