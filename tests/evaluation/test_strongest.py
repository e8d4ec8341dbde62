"""evaluate(attacks="strongest"): the best of several attacks in stages, chosen and scored by different draws."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from attacks_models import SmallNet, digits, trained
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, evaluate
from stocnoise.evaluation import Averaged, Budget, Strongest, Voting
from stocnoise.evaluation.cascade import Cascade
from stocnoise.evaluation.jobs import named_jobs
from stocnoise.evaluation.rates import Rate
from stocnoise.evaluation.scoring import Parts, Score
from stocnoise.evaluation.stages import Stage, converged
from stocnoise.evaluation.strongest import NAMED

X, Y = (t[:40] for t in digits()[2:])
BATCHES = [(X[:24], Y[:24]), (X[24:], Y[24:])]
FAST = {"draws": 8, "progress": False, "checks": False}
SMALL = Strongest((Budget(3, 2, ("apgd-margin", "noise off", "parent")), Budget(6, 2), Budget(6, 4, ("apgd-margin",))))


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    model = trained(adversarial=True, gamma=0.3)
    return evaluate(
        model, BATCHES, [SMALL, "pgd"], [0.1, 0.2], transfer_from=trained(), eot=2, steps=6, **(FAST | {"draws": 64})
    )


def test_every_stage_is_of_the_images_that_stand(report):
    for eps in (0.1, 0.2):
        entry = report["strongest", eps]
        assert entry.stages[0].images == 40
        assert all(a.images >= b.images for a, b in itertools.pairwise(entry.stages))
        names = [[each.attack for each in stage.candidates] for stage in entry.stages]
        assert names[0] == ["apgd-margin", "noise off", "parent"] and names[2] == ["apgd-margin"]
        assert names[1] == ["pgd", "apgd", "apgd-margin", "frozen draw", "noise off", "parent"]
        robust = [report.clean.accuracy.value, *(stage.robust_accuracy.value for stage in entry.stages)]
        taken = [stage.taken for stage in entry.stages]
        assert taken == pytest.approx([a - b for a, b in itertools.pairwise(robust)])
        assert entry.robust_accuracy == entry.stages[-1].robust_accuracy and entry.asr == entry.stages[-1].asr


def test_it_is_no_weaker_than_its_parts_and_counts_what_it_spends(report):
    entry = report["strongest", 0.2]
    assert entry.asr.value >= report["pgd", 0.2].asr.value - 0.1
    first, second, third = entry.stages
    gradients = {each.attack: each.gradients for stage in (second,) for each in stage.candidates}
    assert gradients == dict.fromkeys(["pgd", "apgd", "apgd-margin"], 12) | dict.fromkeys(
        ["frozen draw", "noise off", "parent"], 6
    )
    assert first.gradients == 3 * 2 + 3 + 3
    assert third.gradients == pytest.approx(6 * 4 * third.images / 40)
    assert entry.gradients == pytest.approx(sum(stage.gradients for stage in entry.stages))
    assert all(each.queries >= 64 for stage in entry.stages for each in stage.candidates), "scoring is paid for too"


def test_the_report_says_it_all(report):
    data = json.loads(json.dumps(report.to_dict()))
    row = next(row for row in data["attacks"] if row["attack"] == "strongest")
    assert len(row["stages"]) == 3 and row["converged"] in (True, False)
    assert "apgd-margin: 6 steps × 4 draws" in row["settings"]
    assert not any("stages" in row for row in data["attacks"] if row["attack"] != "strongest")
    text = str(report)
    assert "stage by stage" in text and ("Converged" in text or "Not converged" in text)
    for entry in report.entries:
        said = any(w.startswith(f"{entry.attack} at ε = {entry.eps:.4g} has not converged") for w in report.warnings)
        assert said == (entry.converged is False)


def test_the_worst_case_holds_it_too(report):
    assert report["worst case", 0.2].asr.value >= report["strongest", 0.2].asr.value - 0.1
    assert "strongest" in report.attacks and "worst case" in report.attacks


def test_it_changes_no_other_attack_and_the_same_seed_gives_the_same():
    model = trained(gamma=0.3)
    alone = evaluate(model, BATCHES, "pgd", 0.1, eot=2, steps=4, **FAST)
    first, again = (evaluate(model, BATCHES, [SMALL, "pgd"], 0.1, eot=2, steps=4, **FAST) for _ in range(2))
    assert first["pgd", 0.1].asr == alone["pgd", 0.1].asr
    assert first["strongest", 0.1].asr == again["strongest", 0.1].asr
    assert first["strongest", 0.1].median_l2 == again["strongest", 0.1].median_l2


def test_without_noise_it_restarts_and_is_judged_once():
    entry = evaluate(trained(adversarial=True), BATCHES, SMALL, 0.2, **FAST)["strongest", 0.2]
    assert [[each.attack for each in stage.candidates] for stage in entry.stages] == [
        ["apgd-margin"],
        ["pgd", "apgd", "apgd-margin"],
        ["apgd-margin"],
    ]
    assert entry.stages[0].gradients == 6 and "restarts" in entry.settings
    # What fell stays fallen: one draw is right or wrong.
    assert entry.stages[1].images == 40 - round(40 * (1 - entry.stages[0].robust_accuracy.value))


def test_its_images_lie_in_the_ball_and_one_that_fell_is_left_alone():
    class Far(nn.Module):
        """Always wrong: every image falls in the first stage."""

        def __init__(self) -> None:
            super().__init__()
            self.net = SmallNet()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * 0 - nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10) * 1.0

    found = evaluate(Far(), [(X, torch.zeros_like(Y))], SMALL, 0.1, **FAST)
    entry = found["strongest", 0.1]
    assert [stage.images for stage in entry.stages] == [40, 0, 0] and entry.stages[1].candidates == ()
    assert entry.converged is True and not any("left the ball" in w for w in found.warnings)
    assert str(found)


def test_the_version_has_a_name_and_a_table_that_stays():
    assert NAMED["strongest"] is NAMED["strongest-1"]
    assert NAMED["strongest-1"].budgets == (
        Budget(10, 4, ("apgd-margin", "noise off", "parent")),
        Budget(40, 5, ("pgd", "apgd", "apgd-margin", "frozen draw", "noise off", "parent")),
        Budget(40, 20, ("apgd-margin",)),
    )
    settings = {"norm": "inf", "steps": 1, "eot": 1, "source": None, "stochastic": True}
    for name in ("strongest", "strongest-1"):
        (job,) = named_jobs([name], **settings)
        assert job.label == name and job.settings.startswith("strongest-1(")
    assert [job.label for job in named_jobs([SMALL, SMALL], **settings)] == ["strongest", "strongest #2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Strongest(()), "begin with a stage"),
        (lambda: Strongest((Budget(2, 1, ("parent",)),)), "begin with a stage"),
        (lambda: Budget(0, 1), "at least 1"),
        (lambda: Budget(1, 1, ("bim",)), "attacks must be of"),
        (lambda: Budget(1, 1, ()), "attacks must be of"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _stage(taken: float) -> Stage:
    rate = Rate(0.5, 0.4, 0.6)
    return Stage(1, 1, 10, rate, rate, taken, 1.0, 1.0, ())


def test_converged_means_that_the_last_stage_took_next_to_nothing():
    assert converged([_stage(0.5), _stage(0.004)]) is True
    assert converged([_stage(0.0), _stage(0.006)]) is False
    assert converged([_stage(0.0)]) is None and converged([]) is None


def test_dropout_as_noise_is_attacked_without_switching_it_off():
    model = trained(adversarial=True)
    model.head[0].p = 0.3
    model.head[0].train()
    entry = evaluate(model, [(X[:16], Y[:16])], SMALL, 0.2, **FAST)["strongest", 0.2]
    assert [each.attack for each in entry.stages[0].candidates] == ["apgd-margin"]
    assert [each.attack for each in entry.stages[1].candidates] == ["pgd", "apgd", "apgd-margin", "frozen draw"]


def test_a_model_that_cannot_be_frozen_is_attacked_otherwise_and_that_is_said():
    class SequenceFirst(nn.Module):
        """The batch is dimension 1 of its activation, along which fixed noise differs."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 32)
            self.act = stocnoise.StocReLUEMA(32, gamma=4.0, channel_dim=-1)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x.flatten(1)).flip(0).unsqueeze(0)  # so that the first row's noise tells too
            return self.head(self.act(h).squeeze(0).flip(0))

    model = SequenceFirst()
    stocnoise.calibrate(model, [X])
    attack = Strongest((Budget(2, 2, ("pgd", "frozen draw")),))
    found = evaluate(model.eval(), [(X[:16], Y[:16])], attack, 0.1, **FAST)
    assert [each.attack for each in found["strongest", 0.1].stages[0].candidates] == ["pgd"]
    (said,) = [w for w in found.warnings if "frozen draw" in w]
    assert "dimension 0" in said


def test_a_score_is_put_together_from_rows():
    def score(values: list[list[float]], n: int) -> Score:
        correct = torch.tensor(values)
        parts = Parts(*(torch.arange(n, dtype=torch.float64) + i for i in range(8)))
        return Score(correct, correct.mean(1), parts, torch.zeros(n, 2, 2))

    whole, one = score([[1.0, 0.5], [0.0, 1.0], [1.0, 1.0]], 3), score([[0.25, 0.25]], 1)
    put = whole.put(torch.tensor([2]), one)
    assert put.correct.tolist() == [[1.0, 0.5], [0.0, 1.0], [0.25, 0.25]]
    assert put.parts is not None and put.parts.counted.tolist() == [0, 1, 0] and put.parts.right.tolist() == [1, 2, 1]
    assert whole.correct[2].tolist() == [1.0, 1.0] and whole.at(torch.tensor([1])).correct.tolist() == [[0.0, 1.0]]


def test_choosing_is_no_source_of_success():
    """Sixty attacks that do nothing to answers of chance: the best by the choosing draws is no better by the others."""
    generator = torch.Generator().manual_seed(1)

    def chance() -> Score:
        correct = torch.rand(400, 16, generator=generator) < 0.5
        return Score(correct, correct.double().mean(1) > 0.5)

    cascade = Cascade(chance(), [chance() for _ in range(60)])
    assert cascade.best.correct[:, :8].double().mean() < 0.2
    asr, robust = cascade.rates()
    assert asr.value == pytest.approx(0.5, abs=0.04) and robust.value == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("task", ["binary", "multilabel", "segmentation"])
def test_every_task(task):
    torch.manual_seed(0)
    model: nn.Module
    if task == "segmentation":
        model, y = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)), (X[:, 0] * 2.9).long()
    else:
        outputs = 1 if task == "binary" else 4
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))
        y = (Y > 4).long() if task == "binary" else (Y[:, None] > torch.tensor([1, 3, 5, 7])).long()
    student = stocnoise.convert(model, X[:2])
    stocnoise.calibrate(student, [X])
    found = evaluate(student.eval(), [(X, y)], [SMALL, PGD(steps=6, eot=2)], 0.1, task=task, **FAST)
    entry = found["strongest", 0.1]
    names = {each.attack for stage in entry.stages for each in stage.candidates}
    assert ("apgd-margin" in names) == (task == "binary") and "apgd" in names
    assert entry.asr.value >= found["pgd", 0.1].asr.value - 0.1


def test_a_budget_for_each_feature_and_a_mask():
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    budget = torch.full((1, 8, 8), 0.2)
    budget[:, 0] = 0.0
    found = evaluate(trained(gamma=0.3), BATCHES, SMALL, budget, mask=mask, **FAST)
    (entry,) = found.entries
    assert entry.eps == pytest.approx(0.2) and not any("left the ball" in w for w in found.warnings)


class _Draws(nn.Module):
    """Logits of three draws, whatever the input."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        return self.table + x.flatten(1)[:, :1] * 0


def test_a_vote_is_the_share_of_draws_with_the_gradient_of_the_mean():
    table = torch.tensor([[3.0, 0, 0], [0, 1, 0], [0, 1, 0]])  # three draws of one image
    voting, averaged = Voting(_Draws(table), 3), Averaged(_Draws(table), 3)
    x = torch.zeros(1, 1, 1, 1)
    shares = voting(x).exp()
    mean = table.softmax(1).mean(0)
    torch.testing.assert_close(shares[0], (torch.tensor([1.0, 2.0, 0.0]) + mean / 2) / 3.5)
    assert voting(x).argmax() == 1 and averaged(x).argmax() == 0, "most draws say 1, the surest says 0"
    gradients = [torch.autograd.grad(m(x)[0, 1], m.model.table)[0] for m in (voting, averaged)]
    torch.testing.assert_close(gradients[0], gradients[1])
    with pytest.raises(ValueError, match="samples"):
        Averaged(_Draws(table), 0)


@pytest.mark.parametrize("predictor", [Averaged, Voting])
def test_predictors_are_attacked_through_themselves(predictor):
    model = trained(adversarial=True, gamma=0.3)
    budgets = Strongest((Budget(3, 8, ("apgd-margin", "noise off", "frozen draw")), Budget(4, 8, ("apgd",))))
    entry = evaluate(
        predictor(model, 4).eval(), [(X[:16], Y[:16])], budgets, 0.2, draws=4, progress=False, checks=False
    )["strongest", 0.2]
    gradients = {each.attack: each.gradients for each in entry.stages[0].candidates}
    # 8 draws a gradient are two answers of a predictor with four; with its noise off, one draw is all.
    assert gradients == {"apgd-margin": 6, "noise off": 12, "frozen draw": 12}
