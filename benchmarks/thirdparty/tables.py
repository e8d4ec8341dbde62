"""Libraries of tabular data, recommendation and time series."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.thirdparty.entry import Entries, Entry, entry


def _deepctr() -> Entries:
    from deepctr_torch import models
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    sparse = [SparseFeat(f"C{i}", 6, embedding_dim=4) for i in range(3)]
    columns = [*sparse, *(DenseFeat(f"I{i}", 1) for i in range(2))]
    x = torch.cat([torch.randint(0, 6, (8, 3)).float(), torch.rand(8, 2)], 1)
    for name in ("DeepFM", "xDeepFM", "AutoInt", "DCN", "DCNMix", "NFM", "WDL", "FiBiNET", "DIFM", "IFM", "AFN"):
        yield entry(name, x, getattr(models, name), columns, columns, device="cpu")
    for name in ("PNN", "ONN", "CCPM"):
        first = (columns,) if name == "PNN" else (columns, columns)
        yield entry(name, x, getattr(models, name), *first, device="cpu")
    tasks = {"task_types": ["binary", "binary"], "task_names": ["a", "b"], "device": "cpu"}
    for name in ("SharedBottom", "MMOE", "PLE"):
        yield entry(name, x, getattr(models, name), columns, **tasks)


def _tabnet() -> Entries:
    from pytorch_tabnet import tab_network

    groups = {"group_attention_matrix": torch.eye(6)}
    for mask in ("sparsemax", "entmax"):
        yield entry(mask, torch.randn(16, 6), tab_network.TabNet, 6, 3, n_d=4, n_a=4, mask_type=mask, **groups)
    yield entry("pretraining", torch.randn(16, 6), tab_network.TabNetPretraining, 6, n_d=4, n_a=4, **groups)


def _rtdl() -> Entries:
    import rtdl

    x, categories = (torch.randn(8, 5), torch.randint(0, 3, (8, 2)))
    yield entry("MLP", x, rtdl.MLP.make_baseline, d_in=5, d_layers=[16, 8], dropout=0.1, d_out=2)
    sizes = {"d_in": 5, "n_blocks": 2, "d_main": 16, "d_hidden": 32, "dropout_first": 0.1, "dropout_second": 0.1}
    yield entry("ResNet", x, rtdl.ResNet.make_baseline, d_out=2, **sizes)
    yield entry(
        "FTTransformer",
        (x, categories),
        rtdl.FTTransformer.make_default,
        n_num_features=5,
        cat_cardinalities=[3, 3],
        n_blocks=2,
        last_layer_query_idx=[-1],
        d_out=2,
    )


def _tab_transformer() -> Entries:
    from tab_transformer_pytorch import FTTransformer, TabTransformer

    options = {"categories": (3, 4), "num_continuous": 5, "dim": 16, "dim_out": 2, "depth": 2, "heads": 4}
    x = (torch.randint(0, 3, (8, 2)), torch.randn(8, 5))
    for cls in (TabTransformer, FTTransformer):
        yield entry(cls.__name__, x, cls, **options)
    yield Entry("TabTransformer, SELU", lambda: (TabTransformer(**options, mlp_act=nn.SELU()), x))


def _forecasting() -> Entries:
    from pytorch_forecasting.models.mlp.submodules import FullyConnectedModule
    from pytorch_forecasting.models.nbeats.sub_modules import NBEATSGenericBlock, NBEATSSeasonalBlock, NBEATSTrendBlock
    from pytorch_forecasting.models.temporal_fusion_transformer.sub_modules import GatedResidualNetwork
    from pytorch_forecasting.models.tide.sub_modules import _ResidualBlock

    x = torch.randn(4, 16)
    yield entry("NBEATSGenericBlock", x, NBEATSGenericBlock, 8, 4, backcast_length=16, forecast_length=4)
    yield entry("NBEATSSeasonalBlock", x, NBEATSSeasonalBlock, 8, 4, backcast_length=16, forecast_length=4)
    yield entry("NBEATSTrendBlock", x, NBEATSTrendBlock, 8, 4, backcast_length=16, forecast_length=4)
    yield entry("FullyConnectedModule", x, FullyConnectedModule, nn.ReLU, 16, 4, 8, 2, 0.1, True)
    yield entry("GatedResidualNetwork", x, GatedResidualNetwork, 16, 8, 16, 0.1)
    yield entry("TiDE block", x, _ResidualBlock, 16, 4, 8, 0.1, True)


LIBRARIES = {
    "deepctr-torch": _deepctr,
    "pytorch-tabnet": _tabnet,
    "rtdl": _rtdl,
    "tab-transformer-pytorch": _tab_transformer,
    "pytorch-forecasting": _forecasting,
}
