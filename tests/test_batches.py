"""Which entry of a batch is what."""

import pytest
import torch
from torch import nn

import stocnoise
from stocnoise.batches import Others, check_reader, read_batch

X, Y, MASK = torch.rand(4, 3), torch.arange(4), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("batch", "reader"),
    [
        ((X, Y), None),
        ([X, Y, "names"], None),
        ({"pixel_values": X, "labels": Y}, None),
        ({"labels": Y, "pixel_values": X}, None),
        ({"y": Y, "anything": X}, None),
        ({"a": X, "b": Y, "c": 3}, ("a", "b")),
        ((Y, "ids", X), (2, 0)),
        ({"nested": {"x": X}, "t": Y}, lambda batch: (batch["nested"]["x"], batch["t"])),
    ],
)
def test_input_and_target_are_found(batch, reader):
    found = read_batch(batch, reader)
    assert found.x is X and found.y is Y and found.others is None


def test_further_names_are_inputs_that_are_passed_on():
    found = read_batch({"mask": MASK, "labels": Y, "ids": X}, ("ids", "labels", "mask"))
    assert found.others is not None
    seen = found.others.call(lambda **given: given, found.x)
    assert seen["ids"] is X and seen["mask"] is MASK
    rows = torch.tensor([2, 0])
    part = found.others.call(lambda **given: given, X[rows].repeat(3, 1), rows, draws=3)
    assert torch.equal(part["mask"], MASK[rows].repeat(3, 1)) and len(part["ids"]) == 6


def test_numbered_inputs_are_positions():
    found = read_batch((MASK, X, Y), (1, 2, 0))
    assert found.others is not None
    first, second = found.others.call(lambda *given: given, found.x)
    assert first is MASK and second is X


def test_what_is_no_tensor_of_rows_is_passed_on_whole():
    others = Others({"scale": 2.0, "temperature": torch.tensor(3.0)}, "x")
    assert others.first(2).entries == others.entries
    assert others.call(lambda **given: given, X, torch.tensor([1]), 2)["temperature"] == 3.0


@pytest.mark.parametrize(
    ("batch", "reader", "words"),
    [
        ({"input_ids": X, "attention_mask": MASK, "labels": Y}, None, r"say which .*batch=\(.pixel_values., .labe"),
        ({"x": X, "labels": Y, "y": Y}, None, "say which"),
        (X, None, r"must be \(images, labels\)"),
        ((X,), None, "images, labels"),
        ((X, [0, 1, 2, 3]), None, "target of a batch must be a tensor, not list"),
        ({"x": X}, ("x", "label"), r"entries 'x'"),
        ((X, Y), (0, 4), "2 entries"),
        ((X, Y[:2]), None, r"\(4, 3\).*\(2,\)"),
        ((X, Y), lambda batch: batch[0], "batch= must make"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_read_is_said_to_be_one(batch, reader, words):
    with pytest.raises(ValueError, match=words):
        read_batch(batch, reader)


@pytest.mark.parametrize("reader", ["labels", ("x",), (1.5, 2), 3])
def test_a_reader_that_names_nothing_is_refused(reader):
    with pytest.raises(ValueError, match="batch must name"):
        check_reader(reader)


@pytest.mark.parametrize(
    ("data", "reader"),
    [
        ({"labels": Y, "pixel_values": X}, None),
        ({"pixel_values": X, "labels": Y}, None),
        ((X, Y), None),
        ({"a": Y, "b": X}, ("b", "a")),
        ((Y, X), (1, 0)),
    ],
)
def test_calibrate_reads_batches_as_the_others_do(data, reader):
    student = stocnoise.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), X[:2])
    stocnoise.calibrate(student, [data] * 40, batches=40, batch=reader)
    expected = student[0](X).std(0).detach()
    torch.testing.assert_close(student[1].sigma, expected, atol=1e-5, rtol=1e-4)


def test_calibrate_refuses_what_holds_no_tensor():
    student = stocnoise.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), X[:2])
    with pytest.raises(ValueError, match="must hold a tensor first, not int"):
        stocnoise.calibrate(student, [1, 2])
    with pytest.raises(ValueError, match="batch must name"):
        stocnoise.calibrate(student, [X], batch="x")
