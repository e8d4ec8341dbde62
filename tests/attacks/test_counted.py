"""Square, Boundary and HopSkipJump at a budget: every answer counts, and a question may be put several times."""

from __future__ import annotations

import pytest
import torch
from attacks_models import accuracy, digits, trained
from torch import Tensor, nn

from stocnoise.attacks import APGD, Attack, Boundary, HopSkipJump, Square, overshoot
from stocnoise.attacks.questions import Questions, SpentError

X, Y = (t[:24] for t in digits()[2:])
COUNTING = [Square(eps=0.2), Boundary(), HopSkipJump(), HopSkipJump(norm="inf")]


class Rows(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model.eval(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.model(x)


@pytest.mark.parametrize("attack", COUNTING, ids=str)
@pytest.mark.parametrize("gamma", [None, 0.3], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize(("queries", "answers"), [(1, 1), (7, 1), (150, 1), (150, 4), (64, 64)])
def test_an_attack_asks_as_many_whole_questions_as_its_budget_pays_for(attack: Attack, gamma, queries, answers):
    pytest.importorskip("foolbox")
    model = Rows(trained(True, gamma))
    found = attack.asking(queries, answers)(model, X, Y)
    assert model.asked == len(X) * (queries // answers) * answers
    assert found.shape == X.shape and found.min() >= 0 and found.max() <= 1
    if isinstance(attack, Square):
        assert (found - X).abs().max() <= 0.2 + 1e-6


def test_a_start_is_paid_for_and_an_image_without_one_comes_back_as_it_is():
    pytest.importorskip("foolbox")

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    model = Rows(Never())
    found = Boundary(budget=500, noise="raw")(model, X, torch.zeros_like(Y))
    assert torch.equal(found, X)
    assert model.asked == len(X) * (len(X) - 1 + 8)  # the other images, and noise


@pytest.mark.parametrize("attack", COUNTING, ids=str)
def test_more_queries_find_more(attack: Attack):
    pytest.importorskip("foolbox")
    model, norm = trained(True), 2 if not isinstance(attack, HopSkipJump) or attack.norm == "l2" else torch.inf
    few, many = (attack.asking(queries, 1)(model, X, Y) for queries in (20, 1500))
    if isinstance(attack, Square):
        assert accuracy(model, many, Y) < accuracy(model, few, Y) - 0.15
        return
    lengths = [(found - X).flatten(1).norm(norm, dim=1) for found in (few, many)]
    assert accuracy(model, many, Y) == 0
    assert lengths[1].median() < 0.8 * lengths[0].median()


@pytest.mark.parametrize("attack", [Boundary(), HopSkipJump()], ids=str)
def test_averaging_answers_beats_lucky_ones(attack: Attack):
    pytest.importorskip("foolbox")
    model = trained(True, 0.3)
    lucky, asked = (attack.asking(480, answers)(model, X, Y) for answers in (1, 16))
    left = [accuracy(model, overshoot(X, found, 1.5), Y, 32) for found in (lucky, asked)]
    assert left[1] < left[0] - 0.15


def test_square_changes_one_square_of_each_image_and_keeps_what_is_worse():
    """The first question is stripes; then each accepted point differs from the one before in one square."""

    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1)
            return torch.stack([-total, total], 1)

    x, y = torch.full((3, 2, 6, 6), 0.5), torch.zeros(3, dtype=torch.long)
    points = [
        Square(eps=0.1, budget=n)(Brightness(), x, y, generator=torch.Generator().manual_seed(0)) for n in (1, 40)
    ]
    assert all(torch.allclose((point - x).abs(), torch.tensor(0.1)) for point in points)
    stripes = points[0] - x
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes)), "one sign a column"
    assert (points[1].flatten(1).sum(1) >= points[0].flatten(1).sum(1)).all()
    assert len({tuple(row.tolist()) for row in (points[1] - x).sign().flatten(1)}) == 3, "each image its own squares"


def test_square_keeps_within_mask_and_bounds_and_a_budget_for_each_feature():
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    eps = torch.full((1, 8, 8), 0.3)
    eps[:, :, :2] = 0.05
    found = Square(eps=eps, budget=60, mask=mask, bounds=(0.0, 0.9))(trained(True), X * 0.9, Y)
    change = (found - X * 0.9).abs()
    assert (change <= eps + 1e-6).all() and change[:, :, 4:].max() == 0 and found.max() <= 0.9
    assert change.max() > 0.2


def test_a_seed_decides_everything():
    pytest.importorskip("foolbox")
    model = trained(True, 0.3)
    for attack in COUNTING:
        runs = []
        for _ in range(2):
            torch.manual_seed(5)
            runs.append(attack.asking(60, 4)(model, X[:8], Y[:8]))
        assert torch.equal(*runs), attack


def test_questions_remember_and_put_only_what_is_paid_for():
    class Coin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.randn(len(x), 2)

    model = Rows(Coin())
    questions = Questions(model, torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 10, 5, "l2")
    first = questions(torch.ones(2, 3)).argmax(1)
    assert model.asked == 10
    for _ in range(20):
        assert torch.equal(questions(torch.ones(2, 3)).argmax(1), first)
    assert model.asked == 10 and questions.left.tolist() == [5, 5]
    questions.ask(torch.full((2, 3), 2.0), [0])
    assert questions.left.tolist() == [0, 5] and model.asked == 15
    assert questions.ask(torch.full((2, 3), 3.0), [0]).tolist() == [True, True] and model.asked == 15
    questions.ask(torch.full((2, 3), 3.0), [1])
    with pytest.raises(SpentError):
        questions(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Square(budget=0), "budget must be a whole number of at least 1"),
        (lambda: Square(budget=3, eot=4), "budget must be a whole number of at least 4"),
        (lambda: Square(norm="l2"), "searches in L∞"),
        (lambda: Square(share=1.5), "share must be at most 1"),
        (lambda: Boundary(budget=1.5), "budget must be a whole number"),
        (lambda: Boundary(budget=200), "cannot freeze the noise"),
        (lambda: HopSkipJump(norm="l1"), "norm must be"),
        (lambda: APGD().asking(200, 1), "APGD.* does not count its queries: .* square, boundary or hopskipjump"),
        (lambda: Square(budget=2)(nn.Flatten(), torch.rand(2, 5), torch.zeros(2).long()), r"images \(B, C, H, W\)"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
