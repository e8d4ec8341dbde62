"""What a task says of outputs and targets, against formulas in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

import stocnoise
from stocnoise.tasks import Task, as_task, segmentation

BINARY, MULTILABEL, SEGMENTATION = (as_task(name) for name in ("binary", "multilabel", "segmentation"))


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32])
def test_binary_is_the_cross_entropy_of_one_logit(shape, dtype):
    z = torch.linspace(-3, 4, 6, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    target = BINARY.read_target(y.to(dtype).view(shape))
    expected = [math.log1p(math.exp(-(2 * t - 1) * v)) for v, t in zip(z.tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(BINARY.loss(z.view(shape), target), torch.tensor(expected, dtype=torch.float64))
    assert BINARY.judge(z.view(shape), target).tolist() == [(v > 0) != bool(t) for v, t in zip(z, y, strict=True)]


def test_binary_averages_probabilities_not_logits():
    # Sure of itself once, undecided twice: the mean probability says yes, the mean logit no.
    z = torch.tensor([[-9.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    p = z.sigmoid().mean(0)
    assert p > 0.5 and z.mean() < 0
    torch.testing.assert_close(BINARY.average(z).sigmoid(), p)


def test_multilabel_is_right_label_by_label():
    z = torch.tensor([[2.0, -1.0, 3.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)
    y = MULTILABEL.read_target(torch.tensor([[1, 1, 0], [0, 0, 1]]))
    assert MULTILABEL.judge(z, y).tolist() == pytest.approx([2 / 3, 0])
    by_hand = [sum(math.log1p(math.exp(v)) for v in (-2, 1, 3)) / 3, 3 * math.log1p(math.exp(-1)) / 3]
    torch.testing.assert_close(MULTILABEL.loss(z, y), torch.tensor(by_hand, dtype=torch.float64))


def test_segmentation_counts_pixels_that_are_not_ignored():
    task = segmentation(ignore_index=255)
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    y = torch.tensor([[[0, 255], [2, 1]], [[255, 255], [255, 255]]])
    wrong = task.judge(logits, task.read_target(y))
    counted = [(i, j) for i in range(2) for j in range(2) if y[0, i, j] != 255]
    expected = sum(int(logits[0, :, i, j].argmax()) != int(y[0, i, j]) for i, j in counted) / 3
    assert wrong.tolist() == pytest.approx([expected, 0])
    losses = [-logits[0, :, i, j].log_softmax(0)[y[0, i, j]] for i, j in counted]
    torch.testing.assert_close(task.loss(logits, y), torch.stack([sum(losses) / 3, torch.zeros_like(losses[0])]))


def test_mean_iou_of_a_row_by_hand():
    logits = F.one_hot(torch.tensor([[[0, 0], [1, 1]]]), 3).movedim(-1, 1).double()
    y = torch.tensor([[[0, 1], [1, -100]]])
    # class 0: one pixel in both, two in either; class 1: one in both, two in either (the ignored one is in neither).
    assert SEGMENTATION.overlaps(logits, y)[0].tolist() == [[1, 2], [1, 2], [0, 0]]


def test_soft_labels_are_judged_by_their_largest():
    task = as_task("multiclass")
    y = task.read_target(torch.tensor([[0.7, 0.3], [0.2, 0.8]]))
    assert task.judge(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), y).tolist() == [False, True]


@pytest.mark.parametrize(
    ("task", "target", "words"),
    [
        ("multiclass", torch.tensor([0.0, 1.0]), 'task="binary"'),
        ("multiclass", torch.tensor([[0.0], [1.0]]), 'task="binary"'),
        ("multiclass", torch.tensor([[1.0, 1.0], [0.0, 1.0]]), 'task="multilabel"'),
        ("multiclass", torch.tensor([[0], [1]]), r"\(batch,\)"),
        ("multiclass", torch.tensor([0, -1]), "label -1 is out of range"),
        ("binary", torch.tensor([0, 2]), "labels of 0 and 1"),
        ("binary", torch.tensor([[0, 1]]), r"\(batch, 1\)"),
        ("multilabel", torch.tensor([0, 1]), r"\(batch, labels\)"),
        ("multilabel", torch.tensor([[0.0, 0.5]]), "labels of 0 and 1"),
        ("segmentation", torch.zeros(2, 3, 3), "no classes"),
    ],
)
def test_targets_of_another_task_are_refused(task, target, words):
    with pytest.raises(ValueError, match=words):
        as_task(task).read_target(target)


@pytest.mark.parametrize(
    ("task", "output", "target", "words"),
    [
        ("multiclass", torch.zeros(4, 1), torch.zeros(4, dtype=torch.long), r'\(4, 1\).*task="binary"'),
        ("multiclass", torch.zeros(4), torch.zeros(4, dtype=torch.long), r'\(4,\).*task="binary"'),
        ("multiclass", torch.zeros(4, 3, 8, 8), None, 'task="segmentation"'),
        ("multiclass", torch.zeros(4, 3), torch.full((4,), 3), "label 3 is out of range: the model has 3 classes"),
        ("multiclass", torch.zeros(4, 3), torch.full((4, 2), 0.5), "do not fit"),
        ("binary", torch.zeros(4, 2), torch.zeros(4), r'\(4, 2\).*task="multiclass"'),
        ("multilabel", torch.zeros(4, 3), torch.zeros(4, 2), "do not fit"),
        ("segmentation", torch.zeros(4, 3, 8, 8), torch.zeros(4, 4, 4).long(), "output="),
        ("segmentation", torch.zeros(4, 3, 2, 2), torch.full((4, 2, 2), 255), "ignore_index=255"),
    ],
)
def test_outputs_of_another_task_are_refused(task, output, target, words):
    with pytest.raises(ValueError, match=words):
        as_task(task).check(output, target)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (None, torch.ones(2, 3)),
        ("scores", {"scores": torch.ones(2, 3), "aux": torch.zeros(1)}),
        (1, (torch.zeros(1), torch.ones(2, 3))),
        (lambda answer: answer["out"] + 1, {"out": torch.zeros(2, 3)}),
    ],
)
def test_the_output_is_read_where_it_is_said_to_be(output, answer):
    assert torch.equal(as_task("multiclass", output).read(answer), torch.ones(2, 3))


@pytest.mark.parametrize(("output", "words"), [(None, "keys 'a'"), ("b", "'b' finds"), (3, "3 finds")])
def test_an_output_that_is_not_there_is_named(output, words):
    with pytest.raises(ValueError, match=words):
        as_task("multiclass", output).read({"a": torch.zeros(2, 3)})


def test_unknown_tasks_and_outputs_are_refused():
    with pytest.raises(ValueError, match="task must be one of multiclass, binary"):
        as_task("regression")
    with pytest.raises(ValueError, match="output must be"):
        as_task("multiclass", 1.5)


def test_a_task_of_ones_own_must_judge_rows():
    task = Task(loss=lambda z, y: (z - y).abs().mean(1), wrong=lambda z, y: (z - y).abs() > 1)
    with pytest.raises(ValueError, match="one value per row"):
        task.judge(torch.zeros(4, 2), torch.zeros(4, 2))
    assert stocnoise.Task is Task
