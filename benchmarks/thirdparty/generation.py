"""Libraries of diffusion."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.thirdparty.entry import Entries, Entry, entry, image


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


LIBRARIES = {
    "diffusers": _diffusers,
    "denoising-diffusion-pytorch": _denoising,
}
