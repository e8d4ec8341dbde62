"""nn.TransformerEncoderLayer, whose fast path never calls its activation; tables of activations as in transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stocnoise
from tests.conversion_checks import assert_same_function, layers, sites

X = torch.randn(3, 5, 16)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def encoder_layer(activation: Any, batch_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, activation=activation, batch_first=batch_first)


def ready(teacher: nn.Module) -> nn.Module:
    student = stocnoise.convert(teacher, X, gamma=0.5)
    stocnoise.calibrate(student, [X])
    return student


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", F.relu, F.gelu, nn.ReLU(), nn.GELU(), nn.SiLU(), gelu])
def test_the_student_is_stochastic_where_torch_takes_its_fast_path(
    activation: Callable[[Tensor], Tensor], batch_first: bool
) -> None:
    teacher = encoder_layer(activation, batch_first).eval()
    (site,) = sites(teacher, X)
    assert (site.channels, site.channel_dim) == (24, -1)
    student = ready(teacher)
    assert not student.training
    with torch.no_grad():
        assert not torch.equal(student(X), student(X))
    with torch.inference_mode():
        assert not torch.equal(student(X), student(X))


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:The PyTorch API of nested tensors")
def test_a_whole_encoder(pre_norm: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True, norm_first=pre_norm)
    teacher = nn.TransformerEncoder(layer, 2).eval()
    student = ready(teacher)
    assert len(layers(student)) == 2
    mask = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2])
    for arguments in ({}, {"src_key_padding_mask": mask}):
        with torch.no_grad():
            a, b = student(X, **arguments), student(X, **arguments)
        assert not torch.equal(a.nan_to_num(), b.nan_to_num())


def test_a_whole_transformer_with_a_decoder() -> None:
    teacher = nn.Transformer(16, 2, 1, 1, 24, dropout=0.0, batch_first=True)
    student = stocnoise.convert(teacher, (X, X))
    assert len(layers(student)) == 2
    assert_same_function(teacher, student, X, X)


@pytest.mark.parametrize("activation", ["relu", nn.GELU()])
def test_the_function_stays_and_so_does_revert(activation: Any) -> None:
    teacher = encoder_layer(activation, True)
    student = stocnoise.convert(teacher, X)
    assert_same_function(teacher, student, X)
    back = stocnoise.revert(student).eval()
    assert back.activation_relu_or_gelu == teacher.activation_relu_or_gelu
    with torch.no_grad():
        assert torch.equal(back(X), copy.deepcopy(teacher).eval()(X))


class NewGELU(nn.Module):
    """Computes the activation by itself, calling no function of torch that is one."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3))))


class PythonOrTorch(nn.Module):
    """The activation is held as a function chosen in `__init__`."""

    def __init__(self, use_python: bool = False) -> None:
        super().__init__()
        self.act = self._gelu if use_python else F.gelu

    def _gelu(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class Table(dict):  # type: ignore[type-arg]
    """Makes the module that a name stands for."""

    def __getitem__(self, name: str) -> nn.Module:
        made: Any = super().__getitem__(name)
        return made[0](**made[1]) if isinstance(made, tuple) else made()


ACTIVATIONS = Table(relu=nn.ReLU, gelu=PythonOrTorch, leaky=(nn.LeakyReLU, {"negative_slope": 0.2}), new=NewGELU)


class MLP(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 20)
        self.fc2 = nn.Linear(20, 16)
        self.activation_fn = ACTIVATIONS[name]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


@pytest.mark.parametrize("name", ["relu", "gelu", "leaky"])
def test_modules_from_a_table(name: str) -> None:
    (site,) = sites(MLP(name), X)
    assert (site.name, site.kind, site.channels, site.channel_dim) == ("activation_fn", "module", 20, -1)
    teacher = MLP(name)
    assert_same_function(teacher, stocnoise.convert(teacher, X), X)


def test_a_class_that_computes_by_itself_is_told_by_its_values() -> None:
    teacher = MLP("new")
    (site,) = sites(teacher, X)
    assert (site.name, site.activation, site.channels) == ("activation_fn", "NewGELU", 20)
    assert_same_function(teacher, stocnoise.convert(teacher, X), X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu", "quick_gelu", "silu"])
def test_a_model_of_transformers(act: str) -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        hidden_act=act,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    teacher = transformers.BertForSequenceClassification(config)
    tokens = {"input_ids": torch.randint(50, (2, 7))}
    student = stocnoise.convert(teacher, tokens, check=True)
    assert len(layers(student)) == 2
    assert {layer.num_channels for layer in layers(student).values()} == {24}
