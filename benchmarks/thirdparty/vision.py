"""Libraries of image classifiers, and of parts of vision models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.thirdparty.entry import Entries, Entry, entry, image, on, on_meta

_PYTORCHCV_SIZES = {
    **dict.fromkeys(("inceptionv3", "inceptionv4", "inceptionresnetv1", "inceptionresnetv2", "xception"), 299),
    **dict.fromkeys(("polynet", "pnasnet5large"), 331),
    "ntsnet_cub": 448,
}


def _pytorchcv() -> Entries:
    """The first model of each family of classifiers and of semantic segmentation."""
    from pytorchcv import model_provider

    families: dict[str, str] = {}
    for name, make in model_provider._models.items():
        families.setdefault(make.__module__, name)
    for name in families.values():
        if "cifar" in name:
            size = 32
        elif any(data in name for data in ("cityscapes", "voc", "celebamaskhq")):
            size = 480
        else:
            size = _PYTORCHCV_SIZES.get(name, 224)
        yield on_meta(name, lambda name=name: model_provider.get_model(name), 2, 3, size, size)


def _efficientnet() -> Entries:
    from efficientnet_pytorch import EfficientNet

    for name in ("efficientnet-b0", "efficientnet-b1"):
        yield entry(name, image(64), EfficientNet.from_name, name)

    def exported() -> tuple[nn.Module, Any]:
        model = EfficientNet.from_name("efficientnet-b0")
        model.set_swish(memory_efficient=False)
        return (model, image(64))

    yield Entry("efficientnet-b0, for export", exported)


def _geffnet() -> Entries:
    import geffnet

    names = (
        "mobilenetv3_small_075",
        "mobilenetv3_large_075",
        "efficientnet_b0",
        "mixnet_s",
        "fbnetc_100",
        "spnasnet_100",
    )
    for name in (*names, "mnasnet_a1", "mobilenetv2_100", "tf_mobilenetv3_small_minimal_100", "efficientnet_lite0"):
        yield entry(name, image(64), geffnet.create_model, name)


def _open_clip() -> Entries:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    text = CLIPTextCfg(context_length=12, vocab_size=64, width=32, heads=4, layers=2)
    example = {"image": image(32), "text": torch.randint(1, 64, (2, 12))}
    transformer = CLIPVisionCfg(layers=2, width=64, head_width=16, patch_size=8, image_size=32)
    resnet = CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, head_width=32, image_size=32)
    for name, vision in (("ViT", transformer), ("ResNet", resnet)):
        for quick in (False, True):
            yield entry(f"{name}{', quick_gelu' if quick else ''}", example, CLIP, 32, vision, text, quick_gelu=quick)
    yield entry("CustomTextCLIP", example, CustomTextCLIP, 32, transformer, text)
    from open_clip.coca_model import CoCa, MultimodalCfg

    decoder = MultimodalCfg(context_length=12, vocab_size=64, width=32, heads=4, layers=2)
    pooled = CLIPVisionCfg(
        layers=2, width=64, head_width=16, patch_size=8, image_size=32, attentional_pool=True, attn_pooler_heads=4
    )
    yield entry("CoCa", example, CoCa, 32, decoder, text, pooled)


def _facenet() -> Entries:
    from facenet_pytorch import InceptionResnetV1
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

    yield entry("InceptionResnetV1", image(160), InceptionResnetV1, classify=True, num_classes=5)
    for cls, side in ((PNet, 24), (RNet, 24), (ONet, 48)):
        yield entry(cls.__name__, image(side), cls, pretrained=False)


def _pretrainedmodels() -> Entries:
    import pretrainedmodels

    sizes = {"xception": 299, "inceptionv4": 299, "inceptionresnetv2": 299, "nasnetamobile": 224, "polynet": 299}
    names = ("bninception", "resnext101_32x4d", "se_resnet50", "se_resnext50_32x4d", "dpn68", "fbresnet152", "senet154")
    for name in (*names, "cafferesnet101", *sizes):
        make = pretrainedmodels.__dict__[name]
        shape = (2, 3, *(sizes.get(name, 224),) * 2)
        yield on_meta(name, lambda make=make: make(num_classes=1000, pretrained=None), *shape)


def _resnest() -> Entries:
    from resnest.torch import resnest50, resnest101

    for make in (resnest50, resnest101):
        yield on_meta(make.__name__, make, 2, 3, 224, 224)


def _kornia() -> Entries:
    from kornia import feature
    from kornia.feature.keynet import KeyNet, keynet_default_config
    from kornia.models import dexined, tiny_vit, vit, vit_mobile
    from kornia.models.efficient_vit.backbone import efficientvit_backbone_b0
    from kornia.models.rt_detr import RTDETR, RTDETRConfig

    patches = torch.rand(4, 1, 32, 32)
    yield from on(
        patches, feature.HardNet, feature.HardNet8, feature.SOSNet, feature.TFeat, feature.HyNet, pretrained=False
    )
    yield entry("KeyNet", image(48, channels=1), KeyNet, False, keynet_default_config)
    yield from on(image(48, channels=1), feature.OriNet, feature.LAFAffNetShapeEstimator)
    yield entry("DISK, its network", image(64), lambda: feature.DISK().unet)
    yield entry("ViT", image(32), vit.VisionTransformer, 32, 8, 3, 32, 2, 4)
    yield entry("MobileViT", image(64), vit_mobile.MobileViT, "xxs")
    yield entry(
        "TinyViT",
        image(64),
        tiny_vit.TinyViT,
        64,
        embed_dims=[16, 32, 32, 64],
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_sizes=[2, 2, 2, 2],
    )
    yield entry("EfficientViT", image(64), efficientvit_backbone_b0)
    yield entry("DexiNed", image(64), dexined.DexiNed, pretrained=False)
    yield Entry("RTDETR resnet18d", lambda: (RTDETR.from_config(RTDETRConfig("resnet18d", 5)), image(128)))
    yield Entry("SOLD2", lambda: (feature.SOLD2_detector(pretrained=False).model, image(64, channels=1)))


def _lightly() -> Entries:
    from lightly.models import ResNetGenerator
    from lightly.models.modules import (
        BarlowTwinsProjectionHead,
        BYOLProjectionHead,
        DINOProjectionHead,
        SimCLRProjectionHead,
        SwaVProjectionHead,
    )
    from lightly.models.modules.heads import VICRegProjectionHead

    x, dims = torch.randn(4, 32), {"input_dim": 32, "hidden_dim": 64, "output_dim": 16}
    yield from on(x, BarlowTwinsProjectionHead, **dims)
    yield from on(x, BYOLProjectionHead, **dims)
    yield from on(x, SimCLRProjectionHead, **dims)
    yield from on(x, VICRegProjectionHead, **dims)
    yield entry("resnet-9", image(32), ResNetGenerator, "resnet-9")
    yield entry("resnet-18", image(32), ResNetGenerator, "resnet-18")
    for cls, sizes in ((DINOProjectionHead, (32, 64, 16, 24)), (SwaVProjectionHead, (32, 64, 16))):
        yield entry(cls.__name__, x, cls, *sizes)


def _lpips() -> Entries:
    import lpips

    for net in ("alex", "squeeze", "vgg"):
        yield entry(net, (image(64), image(64)), lpips.LPIPS, net=net, pretrained=False, pnet_rand=True, pnet_tune=True)


def _torchxrayvision() -> Entries:
    import torchxrayvision

    yield entry("DenseNet", image(64, channels=1), torchxrayvision.models.DenseNet, num_classes=5)
    yield entry("ResNetAE", image(224, channels=1), torchxrayvision.autoencoders.ResNetAE)


LIBRARIES = {
    "pytorchcv": _pytorchcv,
    "efficientnet-pytorch": _efficientnet,
    "geffnet": _geffnet,
    "open_clip_torch": _open_clip,
    "facenet-pytorch": _facenet,
    "pretrainedmodels": _pretrainedmodels,
    "resnest": _resnest,
    "kornia": _kornia,
    "lightly": _lightly,
    "lpips": _lpips,
    "torchxrayvision": _torchxrayvision,
}
