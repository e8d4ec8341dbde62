"""Models by name: how their images are prepared, what is kept of their weights, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stocnoise import architectures
from stocnoise.cli import models


def test_images_are_prepared_as_the_authors_did() -> None:
    ours = models.image_config("torchvision/resnet18", None)
    assert ours["input_size"] == (3, 224, 224) and ours["crop_pct"] == 224 / 256
    assert ours["mean"] == (0.485, 0.456, 0.406) and ours["interpolation"] == "bilinear"
    assert models.image_config("test_resnet", None)["input_size"] == (3, 160, 160)
    assert models.image_config("test_resnet", 32)["input_size"] == (3, 32, 32)
    with pytest.raises(ValueError, match="no classifier of images"):
        models.image_config("torchvision/fasterrcnn_resnet50_fpn", None)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/squeezenet1_1"])
def test_a_new_head_keeps_all_the_rest_of_the_pretrained_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    theirs = architectures.builder(name)()

    def builder(name: str, classes: int | None = None, *, pretrained: bool = False) -> Callable[[], Any]:
        return (lambda: theirs) if pretrained else architectures.builder(name, classes)

    monkeypatch.setattr(models, "builder", builder)
    model, head = models.with_new_head(name, 3, pretrained=True)
    assert {parameter.shape[0] for parameter in head} == {3} and len(head) == 2
    state = theirs.state_dict()
    own = {key: value for key, value in model.state_dict().items() if value.shape == state[key].shape}
    assert len(own) == len(state) - 2 and all(torch.equal(value, state[key]) for key, value in own.items())
    model, head = models.with_new_head(name, 1000, pretrained=True)
    assert not head and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_there_are_no_pretrained_weights_for_other_classes() -> None:
    config = models.image_config("test_resnet", None)
    with pytest.raises(ValueError, match="no pretrained weights for 3 classes"):
        models.pretrained("test_resnet", 3, config)


def test_a_file_that_is_nothing_is_refused(tmp_path: Any) -> None:
    (tmp_path / "x.pth").write_bytes(b"nothing")
    config = models.image_config("test_resnet", None)
    with pytest.raises(ValueError, match="neither a student nor a checkpoint of test_resnet"):
        models.in_file(tmp_path / "x.pth", "test_resnet", 3, config)
    assert isinstance(models.of_pixels(nn.Identity(), config), nn.Module)
