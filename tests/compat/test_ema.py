"""Averaged copies of the weights."""

from __future__ import annotations

import copy

import torch
from timm.utils import ModelEmaV3
from torch.optim.swa_utils import AveragedModel

import stocnoise
from tests.compat.models import SITES, images, sigmas, small_student


def test_model_ema_averages_weights_and_sigma() -> None:
    student = small_student(training=True)
    ema = ModelEmaV3(student, decay=0.5)
    before = sigmas(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
        for _, layer in stocnoise.stochastic_layers(student):
            layer.sigma.add_(1)
    ema.update(student)
    assert len(list(stocnoise.stochastic_layers(ema.module))) == SITES
    for old, averaged in zip(before, sigmas(ema.module), strict=True):
        torch.testing.assert_close(averaged, old + 0.5)


def test_the_average_is_a_student_of_its_own() -> None:
    student = small_student()
    ema = ModelEmaV3(student)
    stocnoise.set_gamma(student, 0.0)
    with torch.no_grad():
        assert torch.equal(student(images()), student(images()))
        assert not torch.equal(ema.module(images()), ema.module(images()))
    assert len(stocnoise.summary(ema.module).rows) == SITES


def test_stochastic_weight_averaging_keeps_the_noise() -> None:
    averaged = AveragedModel(small_student())
    averaged.update_parameters(small_student())
    with torch.no_grad():
        assert not torch.equal(averaged(images()), averaged(images()))


def test_deepcopy_shares_nothing() -> None:
    student = small_student(training=True)
    twin = copy.deepcopy(student)
    student(images() * 5)
    assert all(not torch.equal(a, b) for a, b in zip(sigmas(student), sigmas(twin), strict=True))
