"""Models of pixels from models of normalised inputs."""

import warnings

import pytest
import torch
from torch import nn

import stocnoise
from stocnoise.normalization import warn_if_bare


class Timm(nn.Module):
    """As timm's models, one that says what it expects."""

    def __init__(self, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1)):
        super().__init__()
        self.pretrained_cfg = {"mean": mean, "std": std}
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x * self.weight).flatten(1)


def test_figures_come_from_what_the_model_says():
    x = torch.rand(2, 3, 4, 4)
    by_hand = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(stocnoise.normalized(Timm())(x), by_hand.flatten(1))
    with pytest.raises(ValueError, match="Linear does not say"):
        stocnoise.normalized(nn.Linear(2, 2))


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 7), (5, 2, 4, 4)])
def test_numbers_serve_inputs_of_any_shape(shape):
    x = torch.rand(shape)
    torch.testing.assert_close(stocnoise.normalized(nn.Identity(), 0.5, 0.25)(x), (x - 0.5) / 0.25)


def test_other_inputs_pass_through():
    class Two(nn.Module):
        def forward(self, x, shift, scale=1.0):
            return x * scale + shift

    assert stocnoise.normalized(Two(), 0.5, 0.5)(torch.ones(1), 3.0, scale=2.0) == 5.0


def test_a_bare_model_is_warned_of_once():
    model, x = Timm(), torch.rand(2, 3, 4, 4)
    with pytest.warns(stocnoise.NormalizationWarning, match=r"Timm was made for .*stocnoise.normalized\(model\)"):
        warn_if_bare(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_bare(model, x)
        warn_if_bare(Timm(), 4 * x - 2)  # normalised already
        warn_if_bare(stocnoise.normalized(Timm()), x)
        warn_if_bare(Timm(mean=(0, 0, 0), std=(1, 1, 1)), x)
        warn_if_bare(Timm(), x[:, :1])  # other images than the figures are of


def test_evaluate_warns_of_a_bare_model():
    data = [(torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.long))]
    with pytest.warns(stocnoise.NormalizationWarning):
        stocnoise.evaluate(Timm().eval(), data, "pgd", 0.1, steps=1, checks=False, progress=False)


def test_a_wrapped_model_takes_pixels_of_the_size_it_was_made_for():
    model = Timm()
    model.pretrained_cfg["input_size"] = (3, 96, 96)
    wrapped = stocnoise.normalized(model)
    assert wrapped.pretrained_cfg == {"input_size": (3, 96, 96), "mean": (0.0,) * 3, "std": (1.0,) * 3}
