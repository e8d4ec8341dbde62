"""Models of tokens and of sound: integer inputs, masks, lengths, and where the channel is in each tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import converted, layers, sites

TOKENS = torch.tensor([[5, 2, 9, 1, 0, 0], [3, 3, 7, 4, 8, 1], [6, 1, 0, 0, 0, 0]])
MASK = TOKENS != 0
WAVE = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


class SelfAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.attention, self.norm = SelfAttention(dim), nn.LayerNorm(dim)
        self.wide, self.narrow, self.last = nn.Linear(dim, width), nn.Linear(width, dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x, mask))
        return self.last(x + self.narrow(F.gelu(self.wide(x))))


class Bert(nn.Module):
    """Three embeddings, layers with a mask, a pooler whose tanh is a gate, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(10, 8, padding_idx=0), nn.Embedding(6, 8), nn.Embedding(2, 8)
        self.layers = nn.ModuleList([EncoderLayer(8, 12) for _ in range(2)])
        self.pooler, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.words(input_ids) + self.places.weight[: input_ids.shape[1]] + self.kinds(kinds)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Decoder(nn.Module):
    """A causal model with a gated linear unit, and the weights of the embedding as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(10, 8), nn.RMSNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 20), nn.Linear(8, 20), nn.Linear(20, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        x = x + F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).flatten(2)
        y = self.norm(x)
        return (x + self.down(F.silu(self.gate(y)) * self.up(y))) @ self.words.weight.T


class SequenceFirst(nn.Module):
    """Tokens (N, B, C), as torch's own transformer takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu")
        self.head = nn.Linear(8, 6)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.encoder(self.words(tokens).transpose(0, 1), src_key_padding_mask=~mask)
        return F.relu(self.head(x))


class Tagger(nn.Module):
    """An LSTM over packed tokens, and a label for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(10, 8), nn.LSTM(8, 5, bidirectional=True, batch_first=True)
        self.hidden, self.act, self.head = nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 4)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.words(tokens), lengths, batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(self.act(self.hidden(x)))


class TextConvolutions(nn.Module):
    """Embeddings as channels of 1-D convolutions of several widths, and the largest over time."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.convs = nn.ModuleList([nn.Conv1d(8, 5, width, padding="same") for width in (2, 3)])
        self.head = nn.Linear(10, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens).transpose(1, 2)
        return self.head(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1))


class Wav2Vec(nn.Module):
    """A waveform through strided convolutions, a projection, positions by a convolution, layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 6, 4, 2), nn.Conv1d(6, 6, 4, 2)
        self.norm, self.project = nn.GroupNorm(6, 6), nn.Linear(6, 8)
        self.positions = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.layers = nn.ModuleList([EncoderLayer(8, 12) for _ in range(3)])

    def forward(self, wave: Tensor) -> Tensor:
        x = F.gelu(self.second(F.gelu(self.norm(self.first(wave[:, None])))))
        x = self.project(x.transpose(1, 2))
        x = x + F.gelu(self.positions(x.transpose(1, 2))).transpose(1, 2)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Conformer(nn.Module):
    """Half a step of Swish on (B, N, C), then a gated, depthwise convolution with BatchNorm and SiLU on (B, C, N)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.doubled, self.depthwise = nn.Conv1d(8, 16, 1), nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.norm, self.act, self.last = nn.BatchNorm1d(8), nn.SiLU(), nn.Conv1d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.wide(x)
        x = x + 0.5 * self.narrow(h * torch.sigmoid(h))
        y = F.glu(self.doubled(x.transpose(1, 2)), dim=1)
        return x + self.last(self.act(self.norm(self.depthwise(y)))).transpose(1, 2)


class Spectrogram(nn.Module):
    """A spectrogram (B, F, T) as an image, then a recurrent layer over time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.conv, self.norm, self.gru = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.GRU(36, 6, batch_first=True),
        )
        self.head = nn.Linear(6, 5)

    def forward(self, wave: Tensor) -> Tensor:
        x = torch.stft(wave, 16, 8, window=self.window, return_complex=True).abs().log1p()
        x = F.relu(self.norm(self.conv(x[:, None])))
        return F.leaky_relu(self.head(self.gru(x.permute(0, 3, 1, 2).flatten(2))[0]), 0.2)


LENGTHS = MASK.sum(1)
FRAMES = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(1))

CASES = [
    (Bert, (TOKENS, MASK), [("gelu", 12, -1), ("gelu", 12, -1)]),
    (Decoder, (TOKENS,), [("silu", 20, -1)]),
    (SequenceFirst, (TOKENS, MASK), [("gelu", 12, -1), ("relu", 6, -1)]),
    (Tagger, (TOKENS, LENGTHS), [("relu", 7, -1)]),
    (TextConvolutions, (TOKENS,), [("relu", 5, 1), ("relu", 5, 1)]),
    (Wav2Vec, (WAVE,), [("gelu", 6, 1), ("gelu", 6, 1), ("gelu", 8, 1), *[("gelu", 12, -1)] * 3]),
    (Conformer, (FRAMES,), [("silu", 16, -1), ("silu", 8, 1)]),
    (Spectrogram, (WAVE,), [("relu", 4, 1), ("leaky_relu", 5, -1)]),
]


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES)
def test_every_activation_has_its_channels(
    model: type[nn.Module], inputs: tuple[Tensor, ...], expected: list[tuple[str, int, int]]
) -> None:
    torch.manual_seed(0)
    teacher = model()
    found = [(site.activation, site.channels, site.channel_dim) for site in sites(teacher, *inputs)]
    assert found == expected
    assert len(layers(converted(teacher, *inputs))) == len(expected)


@pytest.mark.parametrize(("model", "inputs", "expected"), CASES)
def test_sigma_is_over_the_batch_and_the_time(
    model: type[nn.Module], inputs: tuple[Tensor, ...], expected: list[tuple[str, int, int]]
) -> None:
    """A student that has been calibrated takes sequences of other lengths."""
    torch.manual_seed(0)
    student = stocnoise.convert(model(), inputs)
    stocnoise.calibrate(student, [inputs])
    assert sorted(len(layer.sigma) for layer in layers(student).values()) == sorted(n for _, n, _ in expected)
    assert all(layer.sigma.isfinite().all() and layer.sigma.any() for layer in layers(student).values())
    shorter = tuple(value[:2, :4] if value.dim() == 2 and value.shape[1] == 6 else value[:2] for value in inputs)
    if model is Tagger:
        shorter = TOKENS[:2, :4], torch.tensor([4, 3])
    with torch.no_grad():
        a, b = (student.eval()(*shorter) for _ in range(2))
    assert a.shape == b.shape and not torch.equal(a, b)


def test_keywords_and_what_may_be_left_out() -> None:
    """As a tokenizer gives its batches: by name, and not always all of them."""
    torch.manual_seed(0)
    batch = {"input_ids": TOKENS, "attention_mask": MASK}
    student = stocnoise.convert(Bert(), batch)
    stocnoise.calibrate(student, [{"attention_mask": MASK, "input_ids": TOKENS}])
    assert all(layer.num_batches_tracked == 1 for layer in layers(student).values())
    with torch.no_grad():
        assert student(**batch, token_type_ids=MASK.long()).shape == (3, 2)
