"""Libraries of physics, differential equations and spiking neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.thirdparty.entry import Entries, Entry, entry, image


def _e3nn() -> Entries:
    from e3nn import nn as e
    from e3nn import o3

    irreps = o3.Irreps("8x0e + 4x1o")

    def gate(act: object = torch.nn.functional.silu) -> nn.Module:
        made = e.Gate("8x0e", [act], "4x0e", [torch.sigmoid], "4x1o")
        return nn.Sequential(o3.Linear(irreps, made.irreps_in), made, o3.Linear(made.irreps_out, irreps))

    x = irreps.randn(10, -1)
    yield entry("Gate", x, gate)
    yield entry("Gate, relu", x, gate, torch.relu)
    yield entry("FullyConnectedNet", torch.randn(10, 8), e.FullyConnectedNet, [8, 16, 16, 4], torch.nn.functional.silu)
    yield Entry(
        "Activation",
        lambda: (
            nn.Sequential(o3.Linear("8x0e", "8x0e"), e.Activation("8x0e", [torch.nn.functional.gelu])),
            torch.randn(10, 8),
        ),
    )
    yield Entry(
        "NormActivation",
        lambda: (nn.Sequential(o3.Linear(irreps, irreps), e.NormActivation(irreps, torch.nn.functional.silu)), x),
    )


def _neuralop() -> Entries:
    from neuralop.models import FNO, TFNO, UNO

    yield entry("FNO", torch.randn(2, 1, 16, 16), FNO, (4, 4), 1, 1, 8, n_layers=2)
    yield entry(
        "FNO, SiLU", torch.randn(2, 1, 16, 16), FNO, (4, 4), 1, 1, 8, n_layers=2, non_linearity=torch.nn.functional.silu
    )
    yield entry("TFNO", torch.randn(2, 1, 16, 16), TFNO, (4, 4), 1, 1, 8, n_layers=2)
    yield entry(
        "UNO",
        torch.randn(2, 1, 16, 16),
        UNO,
        1,
        1,
        8,
        uno_out_channels=[8, 8, 8],
        uno_n_modes=[[4, 4]] * 3,
        uno_scalings=[[1, 1]] * 3,
        n_layers=3,
    )


class Field(nn.Module):
    """The right side of a differential equation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), act, nn.Linear(16, 4))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


class Flow(nn.Module):
    """A solver as a layer, as torchdiffeq's examples have it."""

    def __init__(self, method: str, act: nn.Module, adjoint: bool) -> None:
        super().__init__()
        self.field, self.method, self.adjoint = (Field(act), method, adjoint)

    def forward(self, y: Tensor) -> Tensor:
        import torchdiffeq

        solve = torchdiffeq.odeint_adjoint if self.adjoint else torchdiffeq.odeint
        return solve(self.field, y, torch.tensor([0.0, 1.0]), method=self.method)[-1]


def _torchdiffeq() -> Entries:
    import torchdiffeq

    assert torchdiffeq
    for method in ("euler", "rk4", "midpoint", "dopri5"):
        yield Entry(method, lambda method=method: (Flow(method, nn.ReLU(), False), torch.rand(4, 4)))
    yield Entry("rk4, adjoint", lambda: (Flow("rk4", nn.SiLU(), True), torch.rand(4, 4)))


def _snntorch() -> Entries:
    import snntorch

    def network() -> nn.Module:
        spikes = snntorch.Leaky(beta=0.9, init_hidden=True)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4), spikes)

    def built() -> tuple[nn.Module, Tensor]:
        model = network()
        model(image(8))
        return (model, image(8))

    yield Entry("Leaky", built)


LIBRARIES = {"e3nn": _e3nn, "neuraloperator": _neuralop, "torchdiffeq": _torchdiffeq, "snntorch": _snntorch}
