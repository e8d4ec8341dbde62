"""One model of each family of timm and torchvision: every activation call becomes a stochastic layer, by other counts.

`python -m benchmarks.zoo` does the same with every model there is.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

import stocnoise
from benchmarks.zoo import Entry, entries, examine, one_per_family
from stocnoise.conversion.example import Example

# Recurrent layers and a loop over thirty updates: too slow without data for this place.
_ELSEWHERE = {"sequencer2d_l", "raft_large"}

ENTRIES = [
    entry
    for entry in one_per_family(entries())
    if entry.name not in _ELSEWHERE and not entry.family.startswith("tv-det-")
]


@pytest.fixture(autouse=True)
def _without_collections() -> Iterator[None]:
    """A third of the time otherwise: each collection walks through all of timm and torchvision."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.collect()
    gc.unfreeze()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.source}-{entry.name}")
def test_conversion_is_exact(entry: Entry) -> None:
    line = examine(entry)
    assert line["result"] == "exact", line
    assert line["layers"] > 0


REAL = [
    "resnet10t",
    "test_vit",
    "test_efficientnet",
    "test_byobnet",
    "test_convnext",
    "test_nfnet",
    "test_mambaout",
    "test_resnet",
    "test_vit2",
    "res2net50_26w_4s",
    "densenet121",
    "mobilenetv3_small_050",
    "mobilevitv2_050",
    "hrnet_w18_small",
    "dla34",
    "efficientvit_m0",
    "ghostnet_050",
    "coat_lite_tiny",
    "pit_ti_224",
    "repvgg_a0",
    "xcit_nano_12_p16_224",
    "swin_tiny_patch4_window7_224",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::stocnoise.UncalibratedWarning")
@pytest.mark.parametrize("name", REAL)
def test_at_sigma_zero_the_student_is_the_teacher_bit_for_bit(name: str) -> None:
    import timm

    teacher = timm.create_model(name).eval()
    student = stocnoise.convert(teacher)
    (x,), _ = Example(teacher).map(lambda t: torch.randn_like(t[:1]))
    with torch.no_grad():
        assert torch.equal(student(x), teacher(x))
