"""PyTorch Geometric."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.thirdparty.entry import Entries, Entry, entry


def _graph(channels: int = 8) -> tuple[Tensor, Tensor]:
    edges = torch.randint(0, 10, (2, 30))
    return (torch.randn(10, channels), edges)


def _torch_geometric() -> Entries:
    import torch_geometric.nn as g

    x = _graph()
    for cls in (g.GCN, g.GraphSAGE, g.GIN, g.GAT, g.PNA, g.EdgeCNN):
        options = (
            {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([0, 2, 3, 5])}
            if cls is g.PNA
            else {}
        )
        yield entry(cls.__name__, x, cls, 8, 16, 2, 5, dropout=0.1, **options)
    for act in ("elu", "gelu", "silu", "leaky_relu", "prelu", "tanh"):
        yield entry(f"GCN {act}", x, g.GCN, 8, 16, 3, 5, act=act)
    yield entry("MLP", torch.randn(10, 8), g.MLP, [8, 16, 16, 5])
    yield entry("MLP plain_last=False, SiLU", torch.randn(10, 8), g.MLP, [8, 16, 5], act="silu", plain_last=False)
    yield entry("GraphUNet", x, g.GraphUNet, 8, 16, 5, 2)
    yield Entry("DeepGCN", lambda: (g.DeepGCNLayer(g.GENConv(8, 8), g.LayerNorm(8), nn.ReLU(), "res+"), x))
    two = torch.arange(10) // 5  # σ needs more than one graph
    yield entry("AttentiveFP", (*x, torch.randn(30, 4), two), g.AttentiveFP, 8, 16, 5, 4, 2, 2)
    yield entry("LINKX", x, g.LINKX, 10, 8, 16, 5, 2)
    yield Entry("GPSConv", lambda: (g.GPSConv(8, g.GCNConv(8, 8), heads=2), x))
    yield Entry(
        "TransformerConv",
        lambda: (
            g.Sequential("x, e", [(g.TransformerConv(8, 8), "x, e -> x"), nn.ReLU(), (g.GATv2Conv(8, 8), "x, e -> x")]),
            x,
        ),
    )
    yield entry("PMLP", x, g.PMLP, 8, 16, 5, 3)
    yield entry("SGFormer", (*x, torch.zeros(10, dtype=torch.long)), g.models.SGFormer, 8, 16, 5)
    yield entry("Polynormer", (*x, torch.zeros(10, dtype=torch.long)), g.models.Polynormer, 8, 16, 5)
    yield entry("NeuralFingerprint", x, g.models.NeuralFingerprint, 8, 16, 5, 2)
    yield Entry(
        "DirGNN", lambda: (g.Sequential("x, e", [(g.DirGNNConv(g.SAGEConv(8, 8)), "x, e -> x"), nn.PReLU(8)]), x)
    )


LIBRARIES = {"torch_geometric": _torch_geometric}
