"""The many transformers of vit-pytorch."""

from __future__ import annotations

import torch

from benchmarks.thirdparty.entry import Entries, entry, image, on


def _vit_pytorch() -> Entries:
    import vit_pytorch
    from vit_pytorch import (
        ats_vit,
        cait,
        cct,
        cross_vit,
        crossformer,
        cvt,
        deepvit,
        efficient,
        jumbo_vit,
        learnable_memory_vit,
        levit,
        local_vit,
        look_vit,
        max_vit,
        max_vit_with_registers,
        mobile_vit,
        nest,
        normalized_vit,
        parallel_vit,
        pit,
        regionvit,
        rvt,
        scalable_vit,
        sep_vit,
        simple_flash_attn_vit,
        simple_uvit,
        simple_vit_with_fft,
        simple_vit_with_qk_norm,
        simple_vit_with_register_tokens,
        t2t,
        twins_svt,
        vit_1d,
        vit_3d,
        vit_for_small_dataset,
        vit_with_patch_dropout,
        vit_with_patch_merger,
        vivit,
        xcit,
    )

    plain = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 64}
    x = image(32)
    yield from on(x, vit_pytorch.ViT, vit_pytorch.SimpleViT, deepvit.DeepViT, rvt.RvT, **plain)
    yield from on(x, parallel_vit.ViT, num_parallel_branches=2, **plain)
    for module in (
        *(vit_for_small_dataset, learnable_memory_vit, simple_vit_with_qk_norm, simple_flash_attn_vit),
        *(vit_with_patch_merger, normalized_vit, local_vit, simple_uvit),
    ):
        found = [value for name, value in vars(module).items() if name.lower().replace("_", "").endswith("vit")]
        for cls in found[-1:]:
            name = f"{module.__name__.rpartition('.')[2]}.{cls.__name__}"
            yield entry(name, x, cls, **plain)
    yield from on(x, simple_vit_with_register_tokens.SimpleViT, num_register_tokens=2, **plain)
    yield from on(x, vit_with_patch_dropout.ViT, patch_dropout=0.25, **plain)
    yield from on(x, ats_vit.ViT, max_tokens_per_depth=(8, 4), **plain)
    yield from on(x, cait.CaiT, cls_depth=1, **plain)
    yield from on(x, xcit.XCiT, cls_depth=1, **plain)
    yield from on(x, simple_vit_with_fft.SimpleViT, freq_patch_size=8, **plain)
    small = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32}
    yield from on(
        x, jumbo_vit.JumboViT, depth=2, heads=4, mlp_dim=64, num_jumbo_cls=1, jumbo_cls_k=2, jumbo_ff_mult=2, **small
    )
    yield from on(x, pit.PiT, depth=(1, 1), heads=4, mlp_dim=64, dropout=0.1, **small)
    yield from on(x, look_vit.LookViT, depth=2, heads=4, mlp_factor=2, **small)
    yield from on(x, efficient.ViT, transformer=vit_pytorch.vit.Transformer(32, 2, 4, 8, 64), **small)
    yield from on(x, cct.CCT, img_size=32, embedding_dim=32, num_layers=2, num_heads=4, mlp_ratio=2, num_classes=5)
    yield from on(
        image(64),
        t2t.T2TViT,
        dim=32,
        image_size=64,
        depth=2,
        heads=2,
        mlp_dim=32,
        num_classes=5,
        t2t_layers=((7, 4), (3, 2)),
    )
    yield from on(
        image(64),
        cross_vit.CrossViT,
        image_size=64,
        num_classes=5,
        depth=1,
        sm_dim=16,
        lg_dim=32,
        sm_patch_size=8,
        sm_enc_depth=1,
        sm_enc_heads=2,
        lg_patch_size=16,
        lg_enc_depth=1,
        lg_enc_heads=2,
    )
    yield from on(
        image(64),
        mobile_vit.MobileViT,
        image_size=(64, 64),
        dims=[16, 20, 24],
        num_classes=5,
        channels=[8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 32],
    )
    yield from on(
        image(64), levit.LeViT, image_size=64, num_classes=5, stages=2, dim=(32, 48), depth=2, heads=(2, 3), mlp_mult=2
    )
    yield from on(
        image(64), cvt.CvT, num_classes=5, s1_emb_dim=16, s2_emb_dim=24, s3_emb_dim=32, s2_heads=1, s3_depth=2
    )
    yield from on(
        image(64), max_vit.MaxViT, num_classes=5, dim_conv_stem=16, dim=16, dim_head=8, depth=(1, 1), window_size=2
    )
    yield from on(
        image(64),
        max_vit_with_registers.MaxViT,
        num_classes=5,
        dim_conv_stem=16,
        dim=16,
        dim_head=8,
        depth=(1, 1),
        window_size=2,
    )
    yield from on(
        image(32),
        nest.NesT,
        image_size=32,
        patch_size=4,
        dim=16,
        heads=2,
        num_hierarchies=3,
        block_repeats=(1, 1, 1),
        num_classes=5,
    )
    yield from on(
        image(224),
        crossformer.CrossFormer,
        num_classes=5,
        dim=(16, 16, 32, 32),
        depth=(1, 1, 1, 1),
        global_window_size=(8, 4, 2, 1),
    )
    yield from on(
        image(224), regionvit.RegionViT, dim=(16, 16, 32, 32), depth=(1, 1, 1, 1), window_size=7, num_classes=5
    )
    yield from on(
        image(256),
        scalable_vit.ScalableViT,
        num_classes=5,
        dim=16,
        heads=(1, 2, 2, 4),
        depth=(1, 1, 1, 1),
        ssa_dim_key=8,
        reduction_factor=(8, 4, 2, 1),
        window_size=(64, 32, None, None),
    )
    yield from on(
        image(224),
        sep_vit.SepViT,
        num_classes=5,
        dim=16,
        dim_head=8,
        heads=(1, 2, 2, 4),
        depth=(1, 1, 1, 1),
        window_size=7,
    )
    yield from on(
        image(224),
        twins_svt.TwinsSVT,
        num_classes=5,
        s1_emb_dim=16,
        s2_emb_dim=16,
        s3_emb_dim=32,
        s4_emb_dim=32,
        s3_depth=1,
    )
    yield from on(
        torch.rand(2, 3, 64), vit_1d.ViT, seq_len=64, patch_size=8, num_classes=5, dim=32, depth=2, heads=4, mlp_dim=64
    )
    clips = torch.rand(2, 3, 4, 32, 32)
    yield from on(
        clips,
        vit_3d.ViT,
        image_size=32,
        frames=4,
        image_patch_size=8,
        frame_patch_size=2,
        num_classes=5,
        dim=32,
        depth=2,
        heads=4,
        mlp_dim=64,
    )
    yield from on(
        clips,
        vivit.ViViT,
        image_size=32,
        frames=4,
        image_patch_size=8,
        frame_patch_size=2,
        num_classes=5,
        dim=32,
        spatial_depth=1,
        temporal_depth=1,
        heads=4,
        mlp_dim=64,
    )


LIBRARIES = {"vit-pytorch": _vit_pytorch}
