"""Libraries of diffusion, and of transformers and state spaces as parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.thirdparty.entry import Entries, Entry, entry, image, on, tokens


def _diffusers() -> Entries:
    import diffusers

    x, text, step = (torch.randn(2, 4, 16, 16), torch.randn(2, 6, 32), torch.tensor([3, 7]))
    blocks = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    down, up = (("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D"))
    condition = {"sample": x, "timestep": step, "encoder_hidden_states": text}

    def unet(**options: Any) -> nn.Module:
        return diffusers.UNet2DConditionModel(
            sample_size=16,
            cross_attention_dim=32,
            attention_head_dim=8,
            down_block_types=down,
            up_block_types=up,
            **blocks,
            **options,
        )

    yield entry("UNet2DConditionModel", condition, unet)
    yield entry("UNet2DConditionModel, gelu", condition, unet, act_fn="gelu")
    yield entry("UNet2DConditionModel, mish", condition, unet, act_fn="mish")
    yield entry(
        "UNet2DModel",
        (image(16), step),
        diffusers.UNet2DModel,
        16,
        3,
        3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **blocks,
    )
    yield entry(
        "AutoencoderKL",
        image(32),
        diffusers.AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **blocks,
    )
    yield entry(
        "AutoencoderTiny",
        image(32),
        diffusers.AutoencoderTiny,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    yield entry(
        "VQModel",
        image(32),
        diffusers.VQModel,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        num_vq_embeddings=16,
        **blocks,
    )
    dc: dict[str, Any] = {
        "in_channels": 3,
        "latent_channels": 4,
        "attention_head_dim": 8,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (16, 16),
        "decoder_block_out_channels": (16, 16),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
    }
    yield entry("AutoencoderDC", image(32), diffusers.AutoencoderDC, **dc)
    yield entry(
        "DiTTransformer2DModel",
        {"hidden_states": x, "timestep": step, "class_labels": torch.tensor([1, 2])},
        diffusers.DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=16,
        num_embeds_ada_norm=10,
    )
    yield entry(
        "PixArtTransformer2DModel",
        {
            "hidden_states": x,
            "timestep": step,
            "encoder_hidden_states": text,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        diffusers.PixArtTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        cross_attention_dim=16,
        caption_channels=32,
        use_additional_conditions=False,
    )
    yield Entry(
        "SD3Transformer2DModel",
        lambda: (
            diffusers.SD3Transformer2DModel(
                sample_size=16,
                patch_size=2,
                in_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=32,
                pooled_projection_dim=16,
                out_channels=4,
            ),
            {**condition_of(x, text, step), "pooled_projections": torch.randn(2, 16)},
        ),
    )
    yield entry(
        "FluxTransformer2DModel",
        {
            "hidden_states": torch.randn(2, 16, 4),
            "encoder_hidden_states": text,
            "pooled_projections": torch.randn(2, 16),
            "timestep": step / 10,
            "img_ids": torch.randn(16, 3),
            "txt_ids": torch.randn(6, 3),
        },
        diffusers.FluxTransformer2DModel,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    yield Entry(
        "SanaTransformer2DModel",
        lambda: (
            diffusers.SanaTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=2,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                caption_channels=32,
                sample_size=16,
            ),
            condition_of(x, text, step),
        ),
    )
    yield entry(
        "UVit2DModel",
        (torch.randint(0, 16, (2, 8, 8)), torch.randn(2, 6, 16), torch.randn(2, 16), torch.randn(2, 5)),
        diffusers.UVit2DModel,
        hidden_size=16,
        cond_embed_dim=16,
        encoder_hidden_size=16,
        block_out_channels=16,
        block_num_heads=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=20,
        codebook_size=16,
        in_channels=16,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=36,
    )
    yield entry(
        "PriorTransformer",
        (torch.randn(2, 16), step, torch.randn(2, 16), torch.randn(2, 6, 16)),
        diffusers.PriorTransformer,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=6,
        additional_embeddings=4,
    )
    yield entry(
        "ControlNetModel",
        {**condition, "controlnet_cond": image(32)},
        diffusers.ControlNetModel,
        down_block_types=down,
        cross_attention_dim=32,
        attention_head_dim=8,
        conditioning_embedding_out_channels=(8, 8),
        **blocks,
    )
    yield entry(
        "UNet1DModel",
        (torch.randn(2, 2, 64), step),
        diffusers.UNet1DModel,
        sample_size=64,
        in_channels=2,
        out_channels=2,
        extra_in_channels=16,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    )
    yield entry(
        "T5FilmDecoder",
        {
            "encodings_and_masks": [(torch.randn(2, 6, 16), torch.ones(2, 6))],
            "decoder_input_tokens": torch.randn(2, 12, 8),
            "decoder_noise_time": torch.rand(2),
        },
        diffusers.models.T5FilmDecoder,
        input_dims=8,
        targets_length=12,
        d_model=16,
        num_layers=2,
        num_heads=2,
        d_kv=8,
        d_ff=32,
    )


def condition_of(x: Any, text: Any, step: Any) -> dict[str, Any]:
    return {"hidden_states": x, "encoder_hidden_states": text, "timestep": step}


def _denoising() -> Entries:
    from denoising_diffusion_pytorch import Unet, Unet1D
    from denoising_diffusion_pytorch.karras_unet import KarrasUnet

    step = torch.tensor([3, 7])
    yield entry("Unet", (image(16), step), Unet, 8, dim_mults=(1, 2), flash_attn=False)
    yield entry("Unet1D", (torch.randn(2, 3, 16), step), Unet1D, 8, dim_mults=(1, 2), channels=3)
    yield Entry(
        "KarrasUnet",
        lambda: (
            KarrasUnet(
                image_size=16,
                dim=8,
                dim_max=16,
                num_downsamples=1,
                num_blocks_per_stage=1,
                attn_res=(8,),
                attn_dim_head=8,
                fourier_dim=8,
            ),
            (image(16, channels=4), step.float()),
        ),
    )


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
    "diffusers": _diffusers,
    "denoising-diffusion-pytorch": _denoising,
    "x-transformers": _x_transformers,
    "performer-pytorch": _performer,
    "perceiver-pytorch": _perceiver,
    "mambapy": _mambapy,
    "vector-quantize-pytorch": _vector_quantize,
    "siren-pytorch": _siren,
}
