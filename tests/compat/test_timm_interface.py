"""What timm's models offer beside `forward` works on a student as on its teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import stocnoise
from stocnoise import stochastic_layers

NAMES = ["resnet10t", "convnext_atto", "test_vit", "test_efficientnet", "test_byobnet"]


def _pair(name: str, **options: object) -> tuple[nn.Module, nn.Module, Tensor]:
    teacher = timm.create_model(name, **options).eval()
    size = teacher.pretrained_cfg["input_size"] if "vit" in name else (3, 64, 64)
    x = torch.randn(2, *size)
    return teacher, stocnoise.convert(teacher, x, gamma=0.0), x


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    assert isinstance(a, (list, tuple)) and isinstance(b, (list, tuple))
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_forward_features_head_and_intermediates(name: str) -> None:
    teacher, student, x = _pair(name)
    with torch.no_grad():
        features = student.forward_features(x)
        assert torch.equal(features, teacher.forward_features(x))
        assert torch.equal(student.forward_head(features), teacher.forward_head(features))
        assert torch.equal(
            student.forward_head(features, pre_logits=True), teacher.forward_head(features, pre_logits=True)
        )
        assert _equal(student.forward_intermediates(x), teacher.forward_intermediates(x))
        assert _equal(
            student.forward_intermediates(x, intermediates_only=True),
            teacher.forward_intermediates(x, intermediates_only=True),
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_is_there_on_each_of_these_ways(name: str) -> None:
    _, student, x = _pair(name)
    stocnoise.set_gamma(student, 0.5)
    stocnoise.calibrate(student, [x], batches=1)
    with torch.no_grad():
        assert not torch.equal(student.forward_features(x), student.forward_features(x))
        assert not _equal(student.forward_intermediates(x), student.forward_intermediates(x))


@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier_changes_the_classes_and_keeps_the_sites(name: str) -> None:
    _, student, x = _pair(name)
    sites = len(list(stochastic_layers(student)))
    student.reset_classifier(7)
    assert student(x).shape == (2, 7)
    assert student.num_classes == 7
    assert len(list(stochastic_layers(student))) == sites
    student.reset_classifier(0)
    assert student(x).dim() == 2


@pytest.mark.parametrize("name", NAMES[:2] + NAMES[3:])
def test_a_feature_extractor_converts(name: str) -> None:
    teacher, student, x = _pair(name, features_only=True)
    assert student.feature_info.channels() == teacher.feature_info.channels()
    assert student.feature_info.reduction() == teacher.feature_info.reduction()
    with torch.no_grad():
        assert _equal(student(x), teacher(x))
    assert len(list(stochastic_layers(student))) > 0


@pytest.mark.parametrize("name", NAMES)
def test_parameter_groups_and_classifier_are_found(name: str) -> None:
    teacher, student, _ = _pair(name)
    assert type(student.get_classifier()) is type(teacher.get_classifier())
    names = [n for n, _ in student.named_parameters()]
    assert names == [n for n, _ in teacher.named_parameters()]
    assert student.group_matcher() == teacher.group_matcher()
    assert student.no_weight_decay() == teacher.no_weight_decay() if hasattr(teacher, "no_weight_decay") else True


def test_timm_data_and_utils_serve_a_student() -> None:
    from timm.data import create_transform, resolve_model_data_config
    from timm.utils import accuracy, freeze, unfreeze

    teacher, student, x = _pair("resnet10t")
    assert resolve_model_data_config(student) == resolve_model_data_config(teacher)
    assert create_transform(**resolve_model_data_config(student)) is not None
    assert 0 <= float(accuracy(student(x), torch.zeros(2, dtype=torch.long))[0]) <= 100
    freeze(student, "layer1")
    assert not any(p.requires_grad for p in student.layer1.parameters())
    unfreeze(student, "layer1")
    assert all(p.requires_grad for p in student.layer1.parameters())


def test_checkpoint_saver_writes_and_finds_a_student(tmp_path: Path) -> None:
    from timm.models import load_checkpoint
    from timm.utils import CheckpointSaver

    _, student, x = _pair("resnet10t")
    stocnoise.calibrate(student, [x], batches=1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    saver = CheckpointSaver(student, optimizer, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    other = stocnoise.convert(timm.create_model("resnet10t"), x, gamma=0.3)
    load_checkpoint(other, str(tmp_path / "last.pth.tar"), weights_only=False)
    for (_, mine), (_, theirs) in zip(stochastic_layers(student), stochastic_layers(other), strict=True):
        assert torch.equal(mine.sigma, theirs.sigma)


def test_a_head_of_a_new_teacher_goes_into_a_student() -> None:
    teacher, student, x = _pair("resnet10t")
    state = teacher.state_dict()
    student.load_state_dict(state)  # strict: the noise keeps its values
    with torch.no_grad():
        assert torch.equal(student(x), teacher(x))
