"""Libraries of segmentation, detection and restoration of images, and of medical volumes."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.thirdparty.entry import Entries, Entry, entry, image, on, volume


def _smp() -> Entries:
    import segmentation_models_pytorch as smp

    names = (
        "Unet",
        "UnetPlusPlus",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "Linknet",
        "MAnet",
        "PAN",
        "UPerNet",
    )
    for name in (*names, "Segformer"):
        yield entry(f"{name} resnet18", image(64), getattr(smp, name), "resnet18", encoder_weights=None)
    encoders = ("efficientnet-b0", "mobilenet_v2", "densenet121", "vgg11_bn", "mobileone_s0", "mit_b0", "se_resnet50")
    for encoder in (
        *encoders,
        "timm-mobilenetv3_small_075",
        "tu-convnext_atto",
        "xception",
        "timm-skresnet18",
        "dpn68",
    ):
        yield entry(f"Unet {encoder}", image(64), smp.Unet, encoder, encoder_weights=None)
    yield entry("DPT", image(64), smp.DPT, "tu-vit_tiny_patch16_224", encoder_weights=None, dynamic_img_size=True)


def _monai() -> Entries:
    from monai.networks import nets

    flat = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    x = image(32, channels=1)
    channels = {"channels": (8, 16, 32), "strides": (2, 2)}
    for act in ("prelu", "relu", "swish", "memswish", "mish", "gelu", "leakyrelu", "elu"):
        yield entry(f"UNet {act}", x, nets.UNet, **flat, **channels, act=act, num_res_units=1)
    yield from on(x, nets.AttentionUnet, **flat, **channels)
    yield from on(x, nets.BasicUNet, **flat, features=(8, 8, 16, 16, 16, 8))
    yield from on(x, nets.BasicUNetPlusPlus, **flat, features=(8, 8, 16, 16, 16, 8))
    yield from on(x, nets.AutoEncoder, **flat, channels=(8, 16), strides=(2, 2))
    yield entry("DynUNet", x, nets.DynUNet, 2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 16])
    yield from on(x, nets.SegResNet, spatial_dims=2, init_filters=8)
    yield from on(x, nets.SegResNetVAE, spatial_dims=2, init_filters=8, input_image_size=(32, 32))
    yield from on(x, nets.SegResNetDS, spatial_dims=2, init_filters=8)
    yield from on(image(64, channels=1), nets.DenseNet121, spatial_dims=2, in_channels=1, out_channels=2)
    yield entry("EfficientNetBN", image(64), nets.EfficientNetBN, "efficientnet-b0", pretrained=False)
    yield entry("SEResNet50", image(64, channels=1), nets.SEResNet50, spatial_dims=2, in_channels=1, num_classes=2)
    yield entry("resnet10", image(64, channels=1), nets.resnet10, spatial_dims=2, n_input_channels=1)
    yield from on(image(32, channels=1), nets.HighResNet, **flat)
    yield entry("ViT", x, nets.ViT, 1, 32, 8, 32, 64, 2, 4, classification=True, spatial_dims=2)
    yield entry("ViTAutoEnc", x, nets.ViTAutoEnc, 1, 32, 16, 1, 16, 32, 64, 2, 4, spatial_dims=2)
    yield entry("UNETR", x, nets.UNETR, 1, 2, 32, 8, 32, 64, 4, spatial_dims=2)
    swin = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 2, "depths": (1, 1, 1, 1)}
    yield entry("SwinUNETR", image(64, channels=1), nets.SwinUNETR, num_heads=(1, 2, 2, 2), **swin)
    yield entry("SwinUNETR v2", image(64, channels=1), nets.SwinUNETR, use_v2=True, num_heads=(1, 2, 2, 2), **swin)
    yield from on(volume(32), nets.VNet, spatial_dims=3, in_channels=1, out_channels=2)
    diffusion = {"channels": (8, 16), "attention_levels": (False, True), "norm_num_groups": 4, "num_res_blocks": 1}
    time = {"x": x, "timesteps": torch.tensor([3, 7])}
    yield entry("DiffusionModelUNet", time, nets.DiffusionModelUNet, 2, 1, 1, num_head_channels=8, **diffusion)
    yield entry(
        "AutoencoderKL",
        x,
        nets.AutoencoderKL,
        **flat,
        channels=(8, 16),
        num_res_blocks=(1, 1),
        attention_levels=(False, True),
        norm_num_groups=4,
        latent_channels=4,
    )
    yield entry(
        "VQVAE",
        x,
        nets.VQVAE,
        **flat,
        channels=(8, 16),
        num_res_channels=(8, 16),
        num_res_layers=1,
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=16,
        embedding_dim=8,
    )
    yield entry("PatchDiscriminator", x, nets.PatchDiscriminator, 2, 8, 1, num_layers_d=2)
    yield entry("MedNeXt", x, nets.MedNeXt, 2, 8, 1, 2)
    yield entry("Quicknat", image(64, channels=1), nets.Quicknat, num_classes=2, num_channels=1, num_filters=8)
    yield entry("FlexibleUNet", image(64), nets.FlexibleUNet, 3, 2, "efficientnet-b0")
    yield entry("MILModel", torch.rand(2, 3, 3, 64, 64), nets.MILModel, 2, mil_mode="att_trans", pretrained=False)
    yield entry("Regressor", x, nets.Regressor, (1, 32, 32), (2,), (4, 8), (2, 2))
    yield entry("VarAutoEncoder", x, nets.VarAutoEncoder, 2, (1, 32, 32), 1, 4, (4, 8), (2, 2))
    yield entry("RegUNet", x, nets.RegUNet, 2, 1, 4, depth=2)
    labels = (image(32, channels=1), image(32))
    yield entry("SPADENet", labels, nets.SPADENet, 2, 1, 1, 3, [32, 32], [16, 8, 8], is_vae=False)


def _ultralytics() -> Entries:
    from ultralytics.nn.tasks import (
        ClassificationModel,
        DetectionModel,
        OBBModel,
        PoseModel,
        SegmentationModel,
        yaml_model_load,
    )

    kinds = {
        "cls": ClassificationModel,
        "pose": PoseModel,
        "seg": SegmentationModel,
        "obb": OBBModel,
        "": DetectionModel,
    }
    names = (
        "yolov8n",
        "yolov8n-cls",
        "yolov8n-pose",
        "yolov8n-seg",
        "yolov8n-obb",
        "yolov8n-ghost",
        "yolov3-tiny",
        "yolov5n",
    )
    names += (
        "yolov6n",
        "yolov9t",
        "yolov10n",
        "yolo11n",
        "yolo11n-cls",
        "yolo11n-seg",
        "yolo12n",
        "yolo12n-cls",
        "yolo26n",
    )
    for name in names:
        cls = kinds.get(name.partition("-")[2], DetectionModel)
        yield Entry(name, lambda name=name, cls=cls: (cls(yaml_model_load(f"{name}.yaml"), verbose=False), image(64)))


_SPANDREL_SIZES = {"SCUNet": 64, "Uformer": 128, "FFTformer": 64, "DITN": 64}


def _spandrel() -> Entries:
    small: dict[str, dict[str, Any]] = {
        "ATD": {
            "embed_dim": 24,
            "depths": (1, 1),
            "num_heads": (2, 2),
            "window_size": 8,
            "num_tokens": 8,
            "category_size": 32,
        },
        "CRAFT": {"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "window_size": 8},
        "Compact": {"num_feat": 8, "num_conv": 2},
        "DAT": {"embed_dim": 24, "depth": [1, 1], "num_heads": [2, 2], "split_size": [8, 8]},
        "DITN": {"dim": 16, "ITL_blocks": 1, "SAL_blocks": 1},
        "DRCT": {"embed_dim": 30, "depths": (1, 1), "num_heads": (2, 2), "window_size": 8},
        "DRUNet": {"nc": [8, 16, 16, 16], "nb": 1},
        "DnCNN": {"nc": 8, "nb": 3},
        "ESRGAN": {"num_filters": 8, "num_blocks": 1},
        "FBCNN": {"nc": [8, 16, 16, 16], "nb": 1},
        "HAT": {"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "window_size": 8},
        "MixDehazeNet": {"embed_dims": [8, 16, 32, 16, 8], "depths": [1, 1, 1, 1, 1]},
        "NAFNet": {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
        "OmniSR": {"num_feat": 16, "res_num": 1},
        "PLKSR": {"dim": 16, "n_blocks": 2},
        "RCAN": {"n_feats": 16, "n_resgroups": 1, "n_resblocks": 1},
        "RGT": {"embed_dim": 24, "depth": [1, 1], "num_heads": [2, 2]},
        "SAFMN": {"dim": 16, "n_blocks": 2},
        "SCUNet": {"dim": 16, "config": [2] * 7},
        "SPAN": {"feature_channels": 8},
        "SwiftSRGAN": {"num_channels": 8, "num_blocks": 2},
        "Swin2SR": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
        "SwinIR": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
        "Uformer": {"embed_dim": 8, "depths": [1] * 9},
        "RetinexFormer": {"n_feat": 8},
        "MoSR": {"n_block": 2, "dim": 16},
        "FFTformer": {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1},
    }
    for name, options in small.items():
        cls = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name)
        yield entry(name, image(_SPANDREL_SIZES.get(name, 32)), cls, **options)


def _segment_anything() -> Entries:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

    encoder = partial(ImageEncoderViT, 64, 8, embed_dim=32, num_heads=2, out_chans=16)
    windows = {"window_size": 2, "use_rel_pos": True, "global_attn_indexes": (1,)}
    yield entry("ImageEncoderViT", image(64), encoder, depth=2, **windows)
    tanh = partial(nn.GELU, approximate="tanh")
    yield entry("ImageEncoderViT, tanh GELU", image(64), encoder, depth=1, act_layer=tanh)
    way = partial(TwoWayTransformer, depth=2, embedding_dim=32, num_heads=4, mlp_dim=64)
    keys, points = torch.rand(2, 32, 8, 8), torch.rand(2, 5, 32)
    yield entry("TwoWayTransformer", (keys, keys, points), way)
    prompts = {
        "image_embeddings": torch.rand(1, 32, 8, 8),
        "image_pe": torch.rand(1, 32, 8, 8),
        "sparse_prompt_embeddings": torch.rand(2, 2, 32),
        "dense_prompt_embeddings": torch.rand(2, 32, 8, 8),
        "multimask_output": True,
    }
    yield Entry("MaskDecoder", lambda: (MaskDecoder(transformer_dim=32, transformer=way()), prompts))
    masks = {"points": None, "boxes": None, "masks": torch.rand(2, 1, 32, 32)}
    yield entry("PromptEncoder", masks, PromptEncoder, 32, (8, 8), (64, 64), 16)


def _dynamic() -> Entries:
    from dynamic_network_architectures.architectures.resnet import ResNet18_CIFAR
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    from dynamic_network_architectures.architectures.vgg import VGG16_cifar

    plain = {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": (8, 16, 16),
        "conv_op": nn.Conv2d,
        "kernel_sizes": 3,
    }
    plain |= {"strides": (1, 2, 2), "num_classes": 2, "n_conv_per_stage_decoder": 1, "norm_op": nn.InstanceNorm2d}
    plain |= {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}, "deep_supervision": True}
    x = image(32, channels=1)
    yield entry("PlainConvUNet", x, PlainConvUNet, n_conv_per_stage=2, **plain)
    yield entry("ResidualEncoderUNet", x, ResidualEncoderUNet, n_blocks_per_stage=1, **plain)
    yield entry("ResNet18_CIFAR", image(32), ResNet18_CIFAR, 10)
    yield entry("VGG16_cifar", image(32), VGG16_cifar, 10)


LIBRARIES = {
    "segmentation-models-pytorch": _smp,
    "monai": _monai,
    "ultralytics": _ultralytics,
    "spandrel": _spandrel,
    "segment-anything": _segment_anything,
    "dynamic-network-architectures": _dynamic,
}
