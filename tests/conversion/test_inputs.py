"""Models of several inputs, of tokens, of sequences: what is converted, calibrated and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import stocnoise
from tests.conversion_checks import converted, layers, sites


class Two(nn.Module):
    """The mask comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, mask: Tensor, x: Tensor) -> Tensor:
        return self.act(self.a(x)) * mask


X = torch.randn(16, 8)
MASK = torch.ones(16, 1)


def expected(student: nn.Module) -> Tensor:
    return student.a(X).std(0).detach()


@pytest.mark.parametrize(
    ("example", "batch"),
    [
        ((MASK, X), (MASK, X)),
        ((MASK, X), [MASK, X, torch.zeros(16)]),
        ({"mask": MASK, "x": X}, {"mask": MASK, "x": X}),
        ({"mask": MASK, "x": X}, {"labels": torch.zeros(16), "x": X, "mask": MASK}),
    ],
)
def test_calibrate_passes_batches_on_as_convert_does(example: object, batch: object) -> None:
    student = stocnoise.convert(Two(), example, alpha=1.0)
    stocnoise.calibrate(student, [batch], batches=1)
    torch.testing.assert_close(student.act.sigma, expected(student))


@pytest.mark.parametrize(
    ("example", "batch", "says"),
    [
        ((MASK, X), X, "2 arguments"),
        ((MASK, X), (X,), "2 arguments"),
        ({"mask": MASK, "x": X}, {"x": X}, "lacks mask"),
        ({"mask": MASK, "x": X}, (MASK, X), "lacks mask, x"),
    ],
)
def test_a_batch_that_is_not_like_the_example_is_told(example: object, batch: object, says: str) -> None:
    student = stocnoise.convert(Two(), example)
    with pytest.raises(ValueError, match=says):
        stocnoise.calibrate(student, [batch])


def test_calibrate_takes_images_and_labels_of_a_model_of_one_tensor() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    for batch in (X, (X, torch.zeros(16)), [X, torch.zeros(16)], {"image": X, "label": torch.zeros(16)}):
        student = stocnoise.convert(model, X, alpha=1.0)
        stocnoise.calibrate(student, [batch], batches=1)
        torch.testing.assert_close(student[1].sigma, student[0](X).std(0).detach())


class Packed(nn.Module):
    """Lengths that must be positive."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head, self.act = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3), nn.GELU()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(self.act(y))


def test_a_file_remembers_lengths(tmp_path: Path) -> None:
    x, lengths = torch.randn(3, 4, 5), torch.tensor([4, 2, 3])
    student = stocnoise.convert(Packed(), (x, lengths), gamma=0.1)
    stocnoise.calibrate(student, [(x, lengths)])
    stocnoise.save(student, tmp_path / "s.safetensors")
    loaded = stocnoise.load(tmp_path / "s.safetensors", Packed())
    with stocnoise.deterministic(student), stocnoise.deterministic(loaded):
        assert torch.equal(loaded.eval()(x, lengths), student.eval()(x, lengths))


class Text(nn.Module):
    """Embeddings, attention with a mask, a feed-forward part: channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(20, 12), nn.Embedding(9, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.a, self.b, self.norm = nn.Linear(12, 24), nn.Linear(24, 12), nn.LayerNorm(12)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.norm(x + self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)[0])
        return self.b(F.gelu(self.a(x))).mean(1)


def test_tokens_with_a_mask() -> None:
    tokens, mask = torch.randint(0, 20, (4, 9)), torch.rand(4, 9) < 0.8
    mask[:, 0] = True
    (site,) = sites(Text(), tokens, mask)
    assert (site.channels, site.channel_dim) == (24, -1)
    converted(Text(), tokens, mask)


class Audio(nn.Module):
    """A waveform through 1-D convolutions, then tokens (B, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.a = nn.Conv1d(1, 6, 5, 2), nn.GroupNorm(2, 6), nn.Linear(6, 10)

    def forward(self, wave: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(wave[:, None])))
        return F.silu(self.a(x.transpose(1, 2)))


def test_a_waveform() -> None:
    wave = torch.randn(3, 40)
    assert [(site.channels, site.channel_dim) for site in sites(Audio(), wave)] == [(6, 1), (10, -1)]
    assert len(layers(converted(Audio(), wave))) == 2
