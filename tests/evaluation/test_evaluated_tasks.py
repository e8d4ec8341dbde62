"""`evaluate` and `predict` on every task: figures against counts by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import stocnoise
from stocnoise import BIM, PGD, Task, evaluate, predict

FAST = {"checks": False, "progress": False, "steps": 5}
X = torch.rand(48, 8, generator=torch.Generator().manual_seed(0))


def net(outputs, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, outputs)).eval()
    model[2].bias.data -= model(X).median(0).values
    return model


def student(outputs):
    torch.manual_seed(0)
    made = stocnoise.convert(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs)), X[:2], gamma=1.0)
    stocnoise.calibrate(made, [X] * 8)
    return made.eval()


def test_binary_asr_is_the_share_that_flips():
    model, y = net(1), (X[:, 0] > 0.5).long()
    attack = BIM(eps=0.1, steps=5, task="binary")
    report = evaluate(model, [(X[:20], y[:20]), (X[20:], y[20:, None])], attack, 0.1, task="binary", **FAST)
    right = (model(X).flatten() > 0) == y
    still = (model(attack(model, X, y)).flatten() > 0) == y
    assert report.clean.accuracy.value == pytest.approx(right.float().mean().item())
    assert report["bim", 0.1].asr.value == pytest.approx((right & ~still).sum().item() / right.sum().item())
    assert report.settings["task"] == "binary"


def test_multilabel_asr_of_labels_and_of_whole_rows():
    model, y = net(3), (X[:, :3] > 0.4).long()
    attack = BIM(eps=0.05, steps=5, task="multilabel")
    report = evaluate(model, [(X, y)], attack, 0.05, task="multilabel", **FAST)
    before, after = (model(X) > 0) == y, (model(attack(model, X, y)) > 0) == y
    entry = report["bim", 0.05]
    assert report.clean.accuracy.value == pytest.approx(before.float().mean().item())
    assert entry.robust_accuracy.value == pytest.approx(after.float().mean().item())
    assert entry.asr.value == pytest.approx((before & ~after).sum().item() / before.sum().item())
    rows, left = before.all(1), after.all(1)
    assert entry.to_dict()["row_asr"] == pytest.approx((rows & ~left).sum().item() / rows.sum().item())
    assert report.clean.to_dict()["row_accuracy"] == pytest.approx(rows.float().mean().item())
    assert "row ASR" in str(report) and "whole rows right" in str(report)


def test_segmentation_reports_pixels_and_mean_iou():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1).eval()
    x, y = torch.rand(6, 1, 5, 5), torch.randint(3, (6, 5, 5))
    y[0, 0] = -100
    attack = BIM(eps=0.2, steps=4, task="segmentation")
    report = evaluate(model, [(x[:4], y[:4]), (x[4:], y[4:])], attack, 0.2, task="segmentation", **FAST)
    counted = y != -100
    answer = model(attack(model, x, y)).argmax(1)
    right, still = (model(x).argmax(1) == y)[counted], (answer == y)[counted]
    entry = report["bim", 0.2]
    assert report.clean.accuracy.value == pytest.approx(right.float().mean().item())
    assert entry.robust_accuracy.value == pytest.approx(still.float().mean().item())
    assert entry.asr.value == pytest.approx((right & ~still).sum().item() / right.sum().item())
    ious = [
        ((answer == c) & (y == c))[counted].sum() / ((answer == c) | (y == c))[counted].sum() for c in range(3)
    ]  # fmt: skip
    assert entry.more["miou"] == pytest.approx(torch.stack(ious).mean().item())
    assert "mIoU" in str(report)


def test_a_regression_with_a_tolerance():
    model, y = net(2), net(2)(X) + 0.05 * torch.randn(48, 2)
    task = Task(lambda z, t: ((z - t) ** 2).mean(1), lambda z, t: (z - t).abs().amax(1) > 0.2)
    attack = BIM(eps=0.1, steps=5, task=task)
    report = evaluate(model, [(X, y)], attack, 0.1, task=task, **FAST)
    still = (model(attack(model, X, y)) - y).abs().amax(1) <= 0.2
    right = (model(X) - y).abs().amax(1) <= 0.2
    assert report["bim", 0.1].asr.value == pytest.approx((right & ~still).sum().item() / right.sum().item())


@pytest.mark.parametrize("task", ["binary", "multilabel", "segmentation", "custom"])
def test_every_task_runs_through_named_attacks_and_checks(task):
    if task == "segmentation":
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))
        x, y = torch.rand(8, 1, 4, 4), torch.randint(3, (8, 4, 4))
        model = stocnoise.convert(body, x[:2], gamma=0.3)
        stocnoise.calibrate(model, [x] * 4)
    else:
        outputs = 1 if task == "binary" else 2
        x, y, model = X, (X[:, :outputs] > 0.5).long(), student(outputs)
    if task == "custom":
        y = y.float()
        task = Task(lambda z, t: (z - t).abs().mean(1), lambda z, t: (z - t).abs().amax(1) > 0.5)
    report = evaluate(
        model.eval(), [(x, y)], ["bim", "pgd", "apgd", "random"], [0.1, 0.2],
        task=task, eot=2, steps=3, draws=4, check_images=16, progress=False, transfer_from=model,
    )  # fmt: skip
    assert report.settings["stochastic"] and len(report.entries) == 12
    assert all(0 <= entry.asr.value <= 1 for entry in report.entries)
    worst, best = report["worst case", 0.2].asr.value, report["random", 0.2].asr.value
    assert worst >= best - 0.2


def test_an_attack_that_cannot_mean_the_task_is_refused_before_any_pass():
    asked = []

    class Watched(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return x

    with pytest.raises(ValueError, match="CW needs a task with a margin"):
        evaluate(Watched().eval(), [(X, X > 0.5)], "cw", 0.1, task="multilabel", **FAST)
    assert not asked


def test_a_misfit_is_said_at_the_first_batch():
    asked = []

    class Watched(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return x[:, :1]

    with pytest.raises(ValueError, match=r'\(16, 1\).*task="binary"'):
        evaluate(Watched().eval(), [(X, torch.zeros(48).long())] * 9, "pgd", 0.1, **FAST)
    assert sum(asked) <= 16


def test_a_targeted_attack_reports_how_often_it_gets_what_it_wants():
    model = net(4)
    y = model(X).argmax(1)
    wanted = (y + 1) % 4
    attack = BIM(eps=0.2, steps=10, targeted=True)
    report = evaluate(model, [(X, y)], attack, 0.2, targets=lambda x, y: (y + 1) % 4, **FAST)
    answer = model(attack(model, X, wanted)).argmax(1)
    assert report["bim", 0.2].more["targeted_asr"] == pytest.approx((answer == wanted).float().mean().item())
    assert report["bim", 0.2].asr.value == pytest.approx((answer != y).float().mean().item())
    assert "as wanted" in str(report)
    drawn = evaluate(model, [(X, y)], attack, 0.2, **FAST)
    assert drawn["bim", 0.2].more["targeted_asr"] > 0.3


def test_bounds_budgets_and_masks_reach_every_attack():
    model, y = net(4), torch.arange(48) % 4
    x, mask = 6 * X - 3, torch.tensor([1.0] * 6 + [0.0] * 2)
    eps = torch.tensor([1.0] * 7 + [0.0])
    seen = []

    class Spy(nn.Module):
        def forward(self, v):
            seen.append(v.detach())
            return model(v)

    report = evaluate(Spy().eval(), [(x, y)], ["bim", "pgd", "apgd", "mim", "cw", "random"], [0.5, eps],
                      bounds=(-3.0, 3.0), mask=mask, progress=False, steps=4, draws=1)  # fmt: skip
    assert {entry.eps for entry in report.entries} == {None, 0.5, 1.0}
    assert not any("left the ball" in warning for warning in report.warnings)
    for batch in seen:
        if batch.shape == x.shape:
            assert batch.min() >= -3 - 1e-6 and batch.max() <= 3 + 1e-6
            assert torch.equal(batch[:, 6:], x[:, 6:])
    with pytest.raises(ValueError, match="eps=2/255"):
        evaluate(model, [(X, y)], "pgd", [2, 4, 8], **FAST)


def test_batches_by_name_and_models_of_several_inputs():
    body = net(4)

    class Masked(nn.Module):
        def forward(self, features, keep):
            return {"scores": body(features * keep)}

    keep = (torch.rand(48, 8) > 0.3).float()
    y = body(X * keep).argmax(1)
    data = [{"keep": keep, "labels": y, "features": X}]
    report = evaluate(Masked().eval(), data, ["bim", "apgd"], 0.1, batch=("features", "labels", "keep"),
                      output="scores", progress=False, steps=4)  # fmt: skip
    assert report.clean.accuracy.value == 1.0 and report["bim", 0.1].asr.value > 0.1
    with pytest.raises(ValueError, match="say which"):
        evaluate(Masked().eval(), data, "bim", 0.1, **FAST)


def test_soft_labels_count_by_their_largest():
    model = net(4)
    y = model(X).argmax(1)
    soft = 0.1 + 0.6 * F.one_hot(y, 4).float()
    hard, mixed = (evaluate(model, [(X, t)], ["fgsm", "cw"], 0.1, **FAST) for t in (y, soft))
    assert mixed.clean.accuracy == hard.clean.accuracy
    assert mixed["cw", None].asr == hard["cw", None].asr


def test_sixteen_bit_images_keep_their_figures():
    model, y = net(4).bfloat16(), torch.arange(48) % 4
    report = evaluate(model, [(X.bfloat16(), y)], ["pgd", "cw"], [8 / 255], **FAST)
    assert not report.warnings


# Dropout as noise at test time


def dropped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4)).eval()
    model[2].train()
    return model


def test_dropout_left_on_is_noise_and_said_to_be():
    model = dropped()
    y = model(X).argmax(1)
    spread = predict(model, X, 200).spread
    by_hand = torch.stack([model(X).softmax(1) for _ in range(200)]).std(0, correction=0)
    torch.testing.assert_close(spread, by_hand, atol=0.03, rtol=0.2)
    report = evaluate(model, [(X, y)], "pgd", 0.05, eot=2, draws=4, **FAST)
    assert report.settings["stochastic"] and report.clean.spread > 0
    assert any("Dropout stands in training mode" in warning for warning in report.warnings)
    assert model[2].training and not model[0].training
    gradient = PGD(eps=0.05, steps=1, eot=1)
    torch.manual_seed(0)
    first = gradient(model, X, y)
    assert not torch.equal(first, gradient(model, X, y))


def test_a_model_in_training_is_attacked_in_eval_mode_as_a_whole():
    model = dropped().train()
    assert predict(model, X, 8).spread.max() == 0
    assert model.training and model[2].training


# predict


def test_predict_on_every_task():
    one = student(1)
    by_hand = torch.stack([one(X).sigmoid() for _ in range(400)]).mean(0)
    found = predict(one, X, 400, task="binary")
    torch.testing.assert_close(found.probabilities, by_hand, atol=0.05, rtol=0)
    assert found.vote.shape == (48,) and ((found.agreement >= 0.5) & (found.agreement <= 1)).all()
    assert (found.vote == (found.probabilities.flatten() > 0.5)).float().mean() > 0.8
    several = predict(student(3), X, 32, task="multilabel")
    assert several.probabilities.shape == several.vote.shape == several.agreement.shape == (48, 3)
    assert torch.equal(several.vote, (several.agreement * (2 * several.vote - 1) > 0).long())
    pixels = predict(nn.Conv2d(1, 3, 1).eval(), torch.rand(2, 1, 4, 4), 2, task="segmentation")
    assert pixels.probabilities.shape == (2, 3, 4, 4) and pixels.vote.shape == pixels.agreement.shape == (2, 4, 4)
    torch.testing.assert_close(pixels.probabilities.sum(1), torch.ones(2, 4, 4))
    value = predict(student(2), X, 64, task=Task(lambda z, t: z, lambda z, t: z))
    assert value.vote is None and value.agreement is None and value.spread.max() > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": X}, r'\(48, 1\).*task="binary"'),
        ({"x": X.numpy()}, "must be a tensor, not ndarray"),
        ({"x": X, "task": "multi"}, "task must be one of"),
        ({"x": X.double()}, "inputs of type torch.float64: convert them to torch.float32"),
    ],
)
def test_predict_refuses_what_it_cannot_mean(given, words):
    with pytest.raises(ValueError, match=words):
        predict(net(1), **given)
