"""A model seen by what its classifier is given: found, asked, attacked, and left without a hook."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import stocnoise
from stocnoise.attacks.features import Features, NoClassifierError, classifier, hooks_seen, inputs_of


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.later = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(3, 3)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.head(self.body(x).relu()))


def test_the_classifier_is_the_models_own_word_or_the_last_linear() -> None:
    model = Headed()
    assert classifier(model) is model.head
    assert classifier(stocnoise.normalized(model, 0.0, 1.0)) is model.head
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    assert classifier(plain) is plain[2]
    with pytest.raises(NoClassifierError, match="no Linear"):
        classifier(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()))


def test_features_have_the_gradient_of_the_part_before_and_no_hook_stays() -> None:
    model = Headed()
    x = torch.rand(5, 4, requires_grad=True)
    found = Features(model, model.head)(x)
    expected = model.body(x).relu()
    assert torch.equal(found, expected)
    ours, theirs = (torch.autograd.grad(value.square().sum(), x)[0] for value in (found, expected))
    assert torch.equal(ours, theirs)
    assert hooks(model) == 0


def test_hooks_go_also_after_an_error_and_what_is_no_feature_is_said() -> None:
    shared = nn.Linear(4, 4)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(NoClassifierError, match="called 2 times"):
        Features(twice, shared)(torch.rand(5, 4))
    with pytest.raises(RuntimeError):
        Features(twice, shared)(torch.rand(5, 7))
    folded = nn.Sequential(nn.Unflatten(0, (1, -1)), nn.Linear(4, 4), nn.Flatten(0, 1))
    with pytest.raises(NoClassifierError, match="one vector for each input"):
        Features(folded, folded[1])(torch.rand(5, 4))
    assert hooks(twice) == hooks(folded) == 0


def test_a_compiled_model_sees_a_hook_that_comes_and_goes() -> None:
    """Without a layer whose mode or noise would make PyTorch compile anew."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    eager = nn.Sequential(*model)
    model.compile(backend="aot_eager")
    x = torch.rand(5, 4)
    with hooks_seen(model):
        for _ in range(12):  # beyond the number of times that PyTorch compiles a model anew
            model(x)
            with inputs_of(model[2]) as seen:
                model(x).sum()
            assert len(seen) == 1
            torch.testing.assert_close(seen[0], eager[:2](x))
            (gradient,) = torch.autograd.grad(seen[0].sum(), model[0].bias)
            torch.testing.assert_close(gradient, torch.autograd.grad(eager[:2](x).sum(), model[0].bias)[0])
    assert hooks(model) == 0
