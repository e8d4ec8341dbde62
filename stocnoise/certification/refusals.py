"""What there can be no certificate of, each with what to do about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stocnoise.attacks.modes import attack_mode
from stocnoise.attacks.target import ask
from stocnoise.batches import Batch
from stocnoise.conversion.refuse import unwrap_compiled
from stocnoise.evaluation.model_checks import depends_on_batch
from stocnoise.evaluation.subject import Subject
from stocnoise.input_noise import InputNoise, check_input_noise
from stocnoise.normalization import Normalized
from stocnoise.tasks import OutputReader, Task, TaskLike, as_task

_COPIES = 4


def noise_of(model: nn.Module) -> InputNoise:
    """The noise that comes before all else in `model`; ValueError where there is none, or none of use."""
    noise = unwrap_compiled(model)
    if isinstance(noise, Normalized):
        noise = noise.model
    if not isinstance(noise, InputNoise):
        raise ValueError(
            "this model has no noise on its input, and without it there is no certificate (noise inside gives a radius "
            "too small to be of use): stocnoise.with_input_noise(model, sigma), or stocnoise.convert(model, "
            "input_noise=sigma), around everything else that is done to the input"
        )
    check_input_noise(noise.sigma)
    if not noise.noise or noise.fixed_seed is not None:
        raise ValueError(
            "the noise on the input is switched off or fixed, so draws are not independent: certify outside of "
            "stocnoise.deterministic and stocnoise.fixed_noise"
        )
    return noise


def certifiable(task: TaskLike, output: OutputReader | None) -> Task:
    """The task; ValueError if its answer is not one class of several."""
    asked = as_task(task, output)
    if not asked.one_class:
        raise ValueError(
            f"a certificate is of one answer among classes, task='multiclass' or 'binary': task={asked} has none"
        )
    return asked


def require_eval(model: nn.Module) -> None:
    """ValueError if BatchNorm would use the statistics of a batch."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'the model'}, a {type(module).__name__}, uses the statistics of the batch, so draws of one "
                "batch depend on one another and cannot be counted: call student.eval(), with running statistics"
            )


def require_independent(model: nn.Module, noise: InputNoise, x: Tensor, task: Task) -> None:
    """ValueError if rows of a batch depend on one another as far as two looks tell: gradients from one row to another,
    and randomness inside the model that is one for the whole batch.
    """
    copies = x[:1].repeat(_COPIES, *[1] * (x.dim() - 1))
    with attack_mode(model):
        if depends_on_batch(Subject(model, task), Batch(copies, torch.zeros(_COPIES, dtype=torch.int64))):
            raise ValueError(
                "what the model says about an input depends on the others of the batch, so draws of one batch cannot "
                "be counted: take out what looks across the batch (BatchNorm without running statistics, for example)"
            )
        noise.noise = False
        try:
            with torch.no_grad():
                first, second = (ask(model, copies, task) for _ in range(2))
        finally:
            noise.noise = True
    if _same(first[:1], second[:1]):
        return
    if _same(first, first[:1].expand_as(first)):
        raise ValueError(
            "the model draws randomness of its own that is the same for all rows of a batch, so draws of one batch are "
            "not independent: switch it off, or draw it for each row (StochasticDepth with mode='row', for example)"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
