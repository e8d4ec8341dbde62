"""`stocnoise.mix`: what the mixture computes, and that it is a module like any other."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import stocnoise
from stocnoise.evaluation import Averaged
from stocnoise.mixture import Blend, Mixture


class Fixed(nn.Module):
    """Logits that are its own, whatever it is asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + 0 * x.flatten(1)[:, :1]


def small(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes)).eval()


def noisy(gamma: float = 1.0, seed: int = 0) -> nn.Module:
    student = stocnoise.convert(small(seed=seed), torch.rand(2, 3, 2, 2), gamma=gamma)
    stocnoise.calibrate(student, [torch.rand(64, 3, 2, 2) for _ in range(4)])
    return student.eval()


X = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def test_it_is_the_formula_in_float64() -> None:
    student, teacher = small(seed=0).double(), small(seed=1).double()
    x, (a, k, t) = X.double(), (0.6, 3.0, 0.5)
    wanted = (a * (k * student(x)).softmax(1) + (1 - a) * (teacher(x) / t).softmax(1)).log()
    found = stocnoise.mix(student, teacher, weight=a, scale=k, temperature=t)(x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(8, dtype=torch.float64))


def test_it_stays_finite_where_probabilities_underflow() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    mixture = stocnoise.mix(Fixed(logits.detach()), Fixed(-logits.detach()), weight=0.6, scale=100, temperature=0.01)
    x = torch.zeros(1, 1)
    out = mixture(x)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0, :2], torch.tensor([0.6, 0.4]).log())
    assert out[0, 2] < -20_000, "a probability that float32 has not is told by its logarithm"
    out.sum().backward()
    assert all(half.logits.grad.isfinite().all() for half in (mixture.student, mixture.teacher))


def test_pixels_a_mean_and_std_of_each_half_and_half_precision() -> None:
    student = stocnoise.normalized(small(seed=0), [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    teacher = stocnoise.normalized(small(seed=1), 0.5, 0.25)
    expected = Blend(0.7, 2.0, 1.0).mixed(student(X), teacher(X))
    mixture = stocnoise.mix(student, teacher, weight=0.7, scale=2.0)
    assert torch.equal(mixture(X), expected)
    half = copy.deepcopy(mixture).bfloat16()(X.bfloat16())
    assert half.dtype == torch.float32 and half.isfinite().all()


def test_a_class_at_every_pixel() -> None:
    student, teacher = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1)
    found = stocnoise.mix(student, teacher, weight=0.8, task="segmentation")(X)
    torch.testing.assert_close(found.exp(), 0.8 * student(X).softmax(1) + 0.2 * teacher(X).softmax(1))
    with pytest.raises(ValueError, match="segmentation"):
        stocnoise.mix(student, teacher)(X)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": 0.4}, r"weight must lie in \[0.5, 1\), not 0.4"),
        ({"weight": 1.0}, "weight must lie in"),
        ({"weight": "x"}, "weight must be a finite number"),
        ({"scale": 0}, "scale must be a finite number greater than 0"),
        ({"scale": math.inf}, "scale must be"),
        ({"scale": 1e7}, r"scale must lie in \[1e-06, 1e\+06\], not 10000000"),
        ({"temperature": 1e-7}, "temperature must lie in"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"task": "binary"}, "task='multiclass' or 'segmentation'"),
        ({"task": "multilabel"}, "task='multiclass' or 'segmentation'"),
        ({"task": "no such"}, "task must be one of"),
    ],
)
def test_what_it_cannot_be_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stocnoise.mix(small(), small(), **settings)


def test_halves_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"student answers with shape \(8, 4\) and the teacher with \(8, 5\)"):
        stocnoise.mix(small(4), small(5))(X)
    with pytest.raises(ValueError, match="one logit"):
        stocnoise.mix(small(1), small(1))(X)
    with pytest.raises(TypeError, match=r"teacher must be a torch\.nn\.Module, not function"):
        stocnoise.mix(small(), lambda x: x)  # type: ignore[arg-type]


def test_modes_are_the_students_and_the_teacher_stays_in_eval() -> None:
    student, teacher = small(seed=0).train(), small(seed=1).train()
    mixture = stocnoise.mix(student, teacher)
    assert mixture.training and not any(module.training for module in teacher.modules())
    assert not any(module.training for module in mixture.eval().modules())
    mixture.train()
    assert all(module.training for module in student.modules())
    assert not any(module.training for module in teacher.modules())


def test_a_teacher_whose_dropout_was_left_on_keeps_it() -> None:
    teacher = small(seed=1)
    teacher[3].train()
    mixture = stocnoise.mix(small(seed=0), teacher).eval()
    assert teacher[3].training and not torch.equal(mixture(X), mixture(X))


def test_the_state_holds_the_numbers() -> None:
    first = stocnoise.mix(small(seed=0), small(seed=1), weight=0.55, scale=8, temperature=0.5)
    second = stocnoise.mix(small(seed=2), small(seed=3))
    second.load_state_dict(first.state_dict())
    assert second.blend == first.blend == Blend(0.55, 8.0, 0.5)
    assert torch.equal(first(X), second(X))
    assert all(isinstance(value, Tensor) for value in first.state_dict().values())
    with pytest.raises(ValueError, match="weight must lie in"):
        second.load_state_dict(first.state_dict() | {"_extra_state": torch.tensor([0.1, 1, 1])})
    assert "weight=0.55, scale=8, temperature=0.5" in repr(first)


def test_a_copy_is_its_own() -> None:
    mixture = stocnoise.mix(small(seed=0), small(seed=1), weight=0.6)
    twin = copy.deepcopy(mixture)
    twin.blend = Blend(0.9)
    twin.student[1].weight.data.zero_()
    assert mixture.blend.weight == 0.6 and mixture.student[1].weight.any()
    assert twin.to(torch.float64).state_dict()["_extra_state"][0] == 0.9


def test_switches_act_on_both_halves() -> None:
    mixture = stocnoise.mix(noisy(seed=0), noisy(seed=1))
    names = [name for name, _ in stocnoise.stochastic_layers(mixture)]
    assert {name.split(".")[0] for name in names} == {"student", "teacher"}
    assert not torch.equal(mixture(X), mixture(X))
    with stocnoise.deterministic(mixture):
        quiet = mixture(X)
        assert torch.equal(quiet, mixture(X))
    with stocnoise.fixed_noise(mixture, 3):
        fixed = mixture(X)
        assert torch.equal(fixed, mixture(X)) and not torch.equal(fixed, quiet)
    stocnoise.set_gamma(mixture, 0.0)
    assert torch.equal(mixture(X), quiet)


def test_the_average_over_draws_is_a_half_like_any_other() -> None:
    student, teacher = noisy(), small(seed=1)
    mixture = stocnoise.mix(Averaged(student, 3), teacher, weight=0.6)
    torch.manual_seed(5)
    found = mixture(X)
    torch.manual_seed(5)
    draws = student(X.repeat(3, 1, 1, 1)).unflatten(0, (3, 8))
    expected = 0.6 * draws.softmax(2).mean(0) + 0.4 * teacher(X).softmax(1)
    torch.testing.assert_close(found.exp(), expected)
    single = mixture.one_draw()
    assert isinstance(single, Mixture) and single.student is student and single.blend == mixture.blend
    plain = stocnoise.mix(student, teacher)
    assert plain.one_draw() is plain


def test_predict_gives_its_probabilities() -> None:
    mixture = stocnoise.mix(small(seed=0), small(seed=1), weight=0.6)
    torch.testing.assert_close(stocnoise.predict(mixture, X, 2).probabilities, mixture(X).exp())


@pytest.mark.slow
def test_compiled_it_answers_the_same() -> None:
    mixture = stocnoise.mix(noisy(), small(seed=1), weight=0.6, scale=4.0)
    compiled = torch.compile(mixture, fullgraph=True)
    with stocnoise.deterministic(mixture), torch.no_grad():
        torch.testing.assert_close(compiled(X), mixture(X))
        mixture.blend = Blend(0.9, 1.0, 2.0)
        torch.testing.assert_close(compiled(X), mixture(X))


def test_the_margin_bound_is_the_students_and_says_where_none_could_overrule_it() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 5.0, 0.0]])
    bound = stocnoise.mix(Fixed(logits), small(3), weight=0.7).margin_bound()
    with torch.no_grad():
        assert bound(torch.zeros(3, 1)).argmax(1).tolist() == [0, 3, 1]
    assert list(bound.surrogates().values()) == [bound.student]


@pytest.mark.parametrize("weight", [0.5, 0.55, 0.7, 0.99])
@pytest.mark.parametrize("scale", [0.5, 1.0, 8.0, 1000.0])
def test_no_teacher_flips_an_answer_beyond_the_bound(weight: float, scale: float) -> None:
    """Of 20,000 answers of students, half of them within rounding of the limit."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 5, generator=generator) * 10 ** (2 * torch.rand(20_000, 1, generator=generator) - 1)
    wanted = (1 - weight) / weight + 1e-6 * torch.randn(10_000, generator=generator)
    first = ((1 + wanted) / 2).clamp(0.5, 1 - 1e-7)
    z[:10_000] = -30 / scale * torch.rand(10_000, 5, generator=generator)
    z[:10_000, :2] = torch.stack([first.log(), (1 - first).log()], 1) / scale
    z[:10_000, 2:] -= 40 / scale
    blend = Blend(weight, scale, 1.0)
    said = blend.settled(z).argmax(1)
    sure = said < 5
    assert sure.any() == (weight > 0.5) and not sure.all()
    assert torch.equal(said[sure], z.argmax(1)[sure])
    for rival in range(5):
        teacher = torch.full((len(z), 5), -1e4)
        teacher[:, rival] = 0.0
        assert torch.equal(blend.mixed(z, teacher).argmax(1)[sure], said[sure])
    second = z.topk(2, 1).indices[:, 1]
    teacher = torch.full((len(z), 5), -1e4).scatter(1, second[:, None], 0.0)
    margins = (scale * z.double()).softmax(1).topk(2, 1).values
    small_margin = margins[:, 0] - margins[:, 1] < (1 - weight) / weight - 1e-4
    flipped = blend.mixed(z, teacher).argmax(1) == second
    assert flipped[small_margin].all() and not sure[small_margin].any(), "the bound is tight"
