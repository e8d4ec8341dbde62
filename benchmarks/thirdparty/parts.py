"""Libraries of parts: transformers, state spaces, codebooks, networks of coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.thirdparty.entry import Entries, Entry, entry, image, on, tokens


def _x_transformers() -> Entries:
    from x_transformers import (
        ContinuousTransformerWrapper,
        Decoder,
        Encoder,
        TransformerWrapper,
        ViTransformerWrapper,
        XTransformer,
    )

    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "GLU": {"ff_glu": True},
        "SwiGLU": {"ff_swish": True, "ff_glu": True},
        "squared ReLU": {"ff_relu_squared": True},
        "RMSNorm, rotary": {"use_rmsnorm": True, "rotary_pos_emb": True},
        "no bias": {"ff_no_bias": True},
        "sandwich": {"sandwich_norm": True},
        "macaron": {"macaron": True},
        "custom": {"ff_custom_activation": nn.Mish()},
        "gated residual": {"gate_residual": True},
        "attention gate": {"attn_gate_values": True},
        "talking heads": {"attn_pre_talking_heads": True},
    }
    for name, options in ways.items():
        yield Entry(
            f"Decoder, {name}",
            lambda options=options: (
                TransformerWrapper(
                    num_tokens=50, max_seq_len=16, attn_layers=Decoder(dim=32, depth=2, heads=4, **options)
                ),
                tokens(),
            ),
        )
    yield Entry(
        "Encoder",
        lambda: (
            TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=Encoder(dim=32, depth=2, heads=4)),
            tokens(),
        ),
    )
    yield Entry(
        "Vision",
        lambda: (
            ViTransformerWrapper(
                image_size=32, patch_size=8, num_classes=5, attn_layers=Encoder(dim=32, depth=2, heads=4)
            ),
            image(32),
        ),
    )
    yield Entry(
        "Continuous",
        lambda: (
            ContinuousTransformerWrapper(
                dim_in=8, dim_out=4, max_seq_len=16, attn_layers=Encoder(dim=32, depth=2, heads=4)
            ),
            torch.randn(2, 12, 8),
        ),
    )
    both = {
        f"{side}_{key}": value
        for side in ("enc", "dec")
        for key, value in {"depth": 2, "heads": 4, "num_tokens": 50, "max_seq_len": 16}.items()
    }
    yield entry("XTransformer", (tokens(), tokens()), XTransformer, dim=32, **both)


def _performer() -> Entries:
    from performer_pytorch import Performer, PerformerLM

    options = {"dim": 32, "depth": 2, "heads": 4, "dim_head": 8}
    yield entry("Performer", torch.randn(2, 12, 32), Performer, **options)
    yield Entry(
        "Performer, generalized",
        lambda: (Performer(**options, generalized_attention=True, kernel_fn=nn.ReLU()), torch.randn(2, 12, 32)),
    )
    yield entry("Performer, GLU", torch.randn(2, 12, 32), Performer, **options, ff_glu=True)
    yield entry("PerformerLM", tokens(), PerformerLM, num_tokens=50, max_seq_len=16, **options)


def _perceiver() -> Entries:
    from perceiver_pytorch import Perceiver, PerceiverIO

    yield entry(
        "Perceiver",
        torch.rand(2, 8, 8, 3),
        Perceiver,
        num_freq_bands=2,
        depth=2,
        max_freq=4.0,
        num_latents=8,
        latent_dim=16,
        cross_dim_head=8,
        latent_dim_head=8,
        latent_heads=2,
        num_classes=5,
    )
    yield entry(
        "PerceiverIO",
        {"data": torch.randn(2, 12, 16), "queries": torch.randn(4, 16)},
        PerceiverIO,
        dim=16,
        queries_dim=16,
        depth=2,
        num_latents=8,
        latent_dim=16,
        logits_dim=5,
        cross_dim_head=8,
        latent_dim_head=8,
        latent_heads=2,
    )


def _mambapy() -> Entries:
    from mambapy.mamba import Mamba, MambaConfig

    for parallel in (True, False):
        yield Entry(
            f"Mamba, parallel={parallel}",
            lambda parallel=parallel: (
                Mamba(MambaConfig(d_model=16, n_layers=2, d_state=4, pscan=parallel)),
                torch.randn(2, 8, 16),
            ),
        )


def _vector_quantize() -> Entries:
    import vector_quantize_pytorch as v

    x = torch.randn(2, 16, 32)

    def coder(quantizer: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(32, 32), nn.GELU(), quantizer)

    yield Entry("VectorQuantize", lambda: (coder(v.VectorQuantize(32, 16)), x))
    yield Entry("FSQ", lambda: (coder(v.FSQ([5, 5], dim=32)), x))
    yield Entry("LFQ", lambda: (coder(v.LFQ(codebook_size=16, dim=32)), x))


def _siren() -> Entries:
    from siren_pytorch import SirenNet

    yield from on(torch.rand(16, 2), SirenNet, dim_in=2, dim_hidden=16, dim_out=3, num_layers=3)


LIBRARIES = {
    "x-transformers": _x_transformers,
    "performer-pytorch": _performer,
    "perceiver-pytorch": _perceiver,
    "mambapy": _mambapy,
    "vector-quantize-pytorch": _vector_quantize,
    "siren-pytorch": _siren,
}
