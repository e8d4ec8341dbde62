"""What every attack promises: the model as it was, bad input refused, any precision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attacks_models import SmallNet, accuracy, digits, noisy_net, trained
from torch import nn

import stocnoise
from stocnoise import PGD
from stocnoise.attacks.modes import attack_mode

X, Y = (t[:32] for t in digits()[2:])
ATTACK = PGD(eps=0.1, steps=2, eot=2)


def state_of(model):
    return (
        {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in model.state_dict(keep_vars=True).items()},
        {name: (p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
    )


def assert_same_state(before, after):
    assert before[2] == after[2]
    for name, (tensor, pointer) in before[0].items():
        assert torch.equal(tensor, after[0][name][0]) and pointer == after[0][name][1], name
    for name, (requires_grad, grad) in before[1].items():
        assert requires_grad == after[1][name][0]
        assert (grad is None) == (after[1][name][1] is None)
        assert grad is None or torch.equal(grad, after[1][name][1])


def mixed_state_model():
    """In training, parts of it in eval, a part frozen, one gradient present."""
    model = trained(gamma=0.1).train()
    model.features[1].eval()
    model.features[0].weight.requires_grad_(False)
    model.head[1].weight.grad = torch.randn_like(model.head[1].weight)
    return model


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_model_is_left_as_it_was(batch_norm):
    model = mixed_state_model()
    before = state_of(model)
    PGD(eps=0.1, steps=2, eot=2, batch_norm=batch_norm)(model, X, Y)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_model_is_left_as_it_was_after_an_exception(batch_norm):
    model = mixed_state_model()
    before = state_of(model)

    def broken(logits, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PGD(loss=broken, batch_norm=batch_norm)(model, X, Y)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("compiled", [lambda model: model.compile(backend="eager") or model, torch.compile])
def test_a_compiled_model_computes_no_gradients_of_its_weights(compiled):
    """Its backward pass would compute them all, whatever is asked for."""
    model = mixed_state_model()
    before = state_of(model)
    model.forward = torch.compiler.disable(model.forward)  # compiling takes seconds and changes nothing here
    trained_within = []

    def watching(logits, y):
        trained_within.append([p.requires_grad for p in model.parameters()])
        return F.cross_entropy(logits, y, reduction="none")

    PGD(eps=0.1, steps=2, loss=watching)(compiled(model), X, Y)
    assert len(trained_within) == 2 and not any(map(any, trained_within))
    assert_same_state(before, state_of(model))


def test_batch_norm_mode_decides_whose_statistics_are_used():
    model = trained()
    reference = copy.deepcopy(model)
    reference.features[1].train()
    reference.features[4].train()
    with attack_mode(model, "train"):
        torch.testing.assert_close(model(X), reference(X))
    with attack_mode(model.train(), "eval"):
        torch.testing.assert_close(model(X), reference.eval()(X), atol=0.2, rtol=0.2)
    assert model.training


def test_attack_between_forward_and_backward_of_a_training_step():
    # BatchNorm's buffers must not be changed in place, or the backward pass would refuse.
    model = trained(gamma=0.1).train()
    loss = F.cross_entropy(model(X), Y)
    PGD(eps=0.1, steps=2, batch_norm="train")(model, X, Y)
    loss.backward()


def test_noise_stays_on():
    model = trained(gamma=0.3)
    seen = []

    def loss(logits, y):
        seen.append(logits.detach()[:1])
        return F.cross_entropy(logits, y, reduction="none")

    PGD(eps=0.0, steps=3, random_start=False, loss=loss)(model, X, Y)
    assert not torch.allclose(seen[0], seen[1]) and not torch.allclose(seen[1], seen[2])


def test_draws_of_one_pass_are_independent():
    from stocnoise.attacks.target import Target

    logits = Target(trained(gamma=0.3), torch.float32, 8).outputs(X)
    assert logits.shape == (8, 32, 10)
    assert (logits[0] - logits[1]).abs().mean() > 0.1


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_where_gradients_are_off(context):
    model = trained()
    expected = PGD(eps=0.1, steps=3, random_start=False)(model, X, Y)
    with context():
        x, y = X.clone(), Y.clone()
        torch.testing.assert_close(PGD(eps=0.1, steps=3, random_start=False)(model, x, y), expected)
        assert not torch.is_grad_enabled()


def test_result_is_detached_and_of_the_inputs_dtype():
    for dtype in (torch.float64, torch.bfloat16):
        found = ATTACK(trained().to(dtype), X.to(dtype), Y)
        assert found.dtype == dtype and not found.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_broken_too(dtype):
    model = trained().to(dtype)
    found = PGD(eps=0.2, steps=10)(model, X.to(dtype), Y)
    assert accuracy(model, found, Y) < 0.3
    assert (found.float() - X).abs().max() <= 0.2 + 2**-8


@pytest.mark.parametrize("y", [Y, None], ids=["labels", "predicted"])
def test_under_autocast_the_training_step_keeps_its_gradients(y):
    # Without labels the attack runs a forward under no_grad, whose half-precision weights autocast must not keep.
    model = trained().train()
    with torch.autocast("cpu", torch.bfloat16):
        found = PGD(eps=0.2, steps=5)(model, X, y)
        F.cross_entropy(model(found), Y).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert found.dtype == torch.float32 and accuracy(model.eval(), found, Y) < 0.3


def test_clean_prediction_stands_in_for_labels():
    model = trained()
    attack = PGD(eps=0.1, steps=3, random_start=False)
    torch.testing.assert_close(attack(model, X), attack(model, X, model(X).argmax(1)))


def test_uncalibrated_or_shared_parts_do_not_matter():
    shared = nn.Sequential(noisy := noisy_net(), nn.Identity())
    stocnoise.calibrate(noisy, [X])
    assert ATTACK(shared, X, Y).shape == X.shape


def test_a_model_without_a_gradient_is_not_an_error():
    class Rounded(nn.Module):
        def forward(self, x):
            return trained()(x.detach().round())

    found = PGD(eps=0.1, random_start=False)(Rounded(), X, Y)
    torch.testing.assert_close(found, X)


def test_nan_gradients_give_no_nan_images():
    class Poisoned(nn.Module):
        def forward(self, x):
            return trained()(x) + (x.flatten(1)[:, :1] - x.flatten(1)[:, :1]).sqrt()

    assert PGD(eps=0.1, steps=2)(Poisoned(), X, Y).isfinite().all()


def test_normalized_model_is_attacked_in_pixels():
    inner = trained()
    wrapped = stocnoise.normalized(inner, [0.3], [0.5])
    assert wrapped.model is inner
    found = PGD(eps=0.1, steps=3)(wrapped, X, Y)
    assert (found - X).abs().max() <= 0.1 + 1e-6 and found.min() >= 0 and found.max() <= 1
    assert not torch.allclose(found, PGD(eps=0.1, steps=3)(inner, X, Y))


def test_normalized_computes_the_formula_per_channel():
    x = torch.rand(2, 3, 4, 4)
    wrapped = stocnoise.normalized(nn.Identity(), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    for c in range(3):
        torch.testing.assert_close(wrapped(x)[:, c], (x[:, c] - (0.1 + 0.1 * c)) / 2**c)
    with pytest.raises(ValueError, match="3 channels"):
        wrapped(X)
    with pytest.raises(ValueError, match="std"):
        stocnoise.normalized(nn.Identity(), [0.5], [0.0])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X * 2 - 1, Y, "normalized"),
        (X * 255, Y, "pixels in"),
        (torch.full_like(X, torch.nan), Y, "pixels in"),
        ((X * 255).byte(), Y, "divide by 255"),
        (X, Y + 1000, "out of range: the model has 10 classes"),
        (X, Y - 100, "labels start at 0"),
        (X, Y[:3], "32 images but 3 labels"),
        (X, Y[:, None], "shape"),
    ],
)
def test_bad_input_is_refused_with_advice(x, y, message):
    model = trained().train()
    with pytest.raises(ValueError, match=message):
        ATTACK(model, x, y)
    assert model.training


def test_a_model_that_gives_no_logits_is_refused():
    with pytest.raises(ValueError, match="class logits"):
        ATTACK(nn.Identity(), X, Y)


def test_a_loss_that_is_already_averaged_is_refused():
    with pytest.raises(ValueError, match="one value per row"):
        PGD(loss=F.cross_entropy)(SmallNet(), X, Y)
