"""Libraries of speech and sound."""

from __future__ import annotations

import torch

from benchmarks.thirdparty.entry import Entries, entry, on, wave


def _torchaudio() -> Entries:
    from torchaudio import models

    lengths = torch.tensor([20, 14])
    features = torch.randn(2, 20, 16)
    yield entry("Conformer", (features, lengths), models.Conformer, 16, 4, 32, 2, 7)
    yield entry("ConvTasNet", wave(400, 1), models.ConvTasNet, 2, 8, 16, 3, 8, 16, 3, 1)
    yield entry("DeepSpeech", torch.randn(2, 1, 20, 16), models.DeepSpeech, 16, 32, 5)
    yield entry("Emformer", (torch.randn(2, 22, 16), lengths), models.Emformer, 16, 4, 32, 2, 4, right_context_length=2)
    yield entry("HDemucs", wave(8192, 2), models.HDemucs, ["a", "b"], channels=8, depth=4, nfft=1024)
    yield entry("Wav2Letter", wave(4000, 1), models.Wav2Letter, 5)
    yield entry(
        "WaveRNN",
        (wave(12 * 4, 1), torch.randn(2, 1, 8, 8)),
        models.WaveRNN,
        [2, 2, 3],
        16,
        12,
        1,
        32,
        32,
        5,
        8,
        16,
        16,
    )
    yield entry("Tacotron2 encoder", (torch.randn(2, 16, 9), torch.tensor([9, 7])), models.tacotron2._Encoder, 16, 2, 5)
    from torchaudio.models.wav2vec2.model import wav2vec2_model

    for norm, drop in (("group_norm", 0.0), ("layer_norm", 0.1)):
        yield entry(
            f"wav2vec2, {norm}",
            wave(1600),
            wav2vec2_model,
            norm,
            [(16, 10, 5), (16, 3, 2)],
            False,
            32,
            0.1,
            8,
            2,
            2,
            4,
            0.1,
            0.1,
            64,
            0.1,
            0.1,
            False,
            drop,
            5,
        )


def _speechbrain() -> Entries:
    from speechbrain.lobes.models import (
        CRDNN,
        ECAPA_TDNN,
        ContextNet,
        Xvector,
        conv_tasnet,
        wav2vec,
    )
    from speechbrain.lobes.models.HifiGAN import HifiganGenerator
    from speechbrain.lobes.models.MetricGAN import EnhancementGenerator
    from speechbrain.lobes.models.ResNet import ResNet
    from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
    from speechbrain.lobes.models.VanillaNN import VanillaNN

    frames = torch.randn(2, 40, 16)
    yield entry(
        "ECAPA_TDNN",
        frames,
        ECAPA_TDNN.ECAPA_TDNN,
        16,
        lin_neurons=8,
        channels=[16] * 5,
        attention_channels=8,
        res2net_scale=4,
        se_channels=8,
    )
    yield entry(
        "CRDNN",
        frames,
        CRDNN.CRDNN,
        input_shape=[2, 40, 16],
        cnn_channels=(4, 4),
        rnn_layers=1,
        rnn_neurons=8,
        dnn_neurons=8,
    )
    yield entry(
        "ContextNet",
        frames,
        ContextNet.ContextNet,
        input_shape=[2, 40, 16],
        out_channels=16,
        conv_channels=(16,) * 4,
        kernel_size=3,
        strides=(1, 2, 1, 1),
        num_blocks=4,
        num_layers=1,
    )
    yield entry("Xvector", frames, Xvector.Xvector, tdnn_channels=[16] * 5, lin_neurons=8, in_channels=16)
    yield entry(
        "ResNet", frames, ResNet, in_channels=16, channels=[8, 8, 16, 16], block_sizes=[1, 1, 1, 1], lin_neurons=8
    )
    yield entry("VanillaNN", frames, VanillaNN, input_shape=[2, 40, 16], dnn_neurons=8)
    yield entry(
        "ConformerEncoder",
        (torch.randn(2, 20, 32), None, None, torch.randn(1, 39, 32)),
        ConformerEncoder,
        2,
        32,
        4,
        kernel_size=7,
    )
    yield entry("TransformerEncoder", torch.randn(2, 20, 32), TransformerEncoder, 2, 4, 32, d_model=32)
    yield entry(
        "TransformerEncoder, layerdrop",
        torch.randn(2, 20, 32),
        TransformerEncoder,
        4,
        4,
        32,
        d_model=32,
        layerdrop_prob=0.3,
    )
    yield entry(
        "HifiganGenerator",
        torch.randn(2, 16, 12),
        HifiganGenerator,
        in_channels=16,
        out_channels=1,
        resblock_type="1",
        resblock_dilation_sizes=[[1, 3, 5]],
        resblock_kernel_sizes=[3],
        upsample_kernel_sizes=[8, 8],
        upsample_initial_channel=16,
        upsample_factors=[4, 4],
    )
    yield entry("MetricGAN", (frames, torch.ones(2)), EnhancementGenerator, input_size=16, hidden_size=8)
    yield entry("MaskNet", torch.randn(2, 40, 16), conv_tasnet.MaskNet, 16, 8, 16, 3, 2, 1, 2)
    yield entry("Wav2Vec latent extractor", wave(400), wav2vec.W2VLatentExtractor, [16] * 2, [5, 3], [2, 2])


def _asteroid() -> Entries:
    from asteroid.models import ConvTasNet, DCCRNet, DCUNet, DeMask, DPRNNTasNet, DPTNet, SuDORMRFNet

    x = wave(2000)
    filters = {"kernel_size": 16, "n_filters": 16, "stride": 8}
    yield entry("ConvTasNet", x, ConvTasNet, 2, n_blocks=2, n_repeats=1, bn_chan=8, hid_chan=16, skip_chan=8, **filters)
    yield entry("DPRNNTasNet", x, DPRNNTasNet, 2, n_repeats=1, bn_chan=8, hid_size=8, chunk_size=10, **filters)
    yield entry("DPTNet", x, DPTNet, 2, n_repeats=1, n_heads=4, ff_hid=16, chunk_size=10, **filters)
    yield entry("SuDORMRFNet", x, SuDORMRFNet, 2, bn_chan=8, num_blocks=1, upsampling_depth=2, n_filters=16)
    yield entry("DeMask", x, DeMask, hidden_dims=(16,), n_filters=64, kernel_size=64, stride=32)
    yield entry("DCUNet", wave(16000), DCUNet, "DCUNet-10")
    yield entry("DCCRNet", wave(16000), DCCRNet, "DCCRNet-CL")


def _demucs() -> Entries:
    from demucs.demucs import Demucs
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    x = wave(8192, 2)
    yield entry("Demucs", x, Demucs, ["a", "b"], channels=8, depth=3, lstm_layers=1)
    yield entry("HDemucs", x, HDemucs, ["a", "b"], channels=8, depth=4, nfft=1024)
    yield entry("HTDemucs", x, HTDemucs, ["a", "b"], channels=8, depth=3, nfft=1024, t_layers=2, segment=8192 / 44100)


def _encodec() -> Entries:
    from encodec.model import EncodecModel
    from encodec.modules import SEANetDecoder, SEANetEncoder

    small = {"n_filters": 4, "ratios": [4, 2], "dimension": 16}
    yield entry("SEANetEncoder", wave(800, 1), SEANetEncoder, **small)
    yield entry("SEANetDecoder", torch.randn(2, 16, 20), SEANetDecoder, **small)
    yield entry("EncodecModel", wave(2400, 1), EncodecModel._get_model, [1.5], 24000, 1)


def _vocos() -> Entries:
    from vocos.models import VocosBackbone, VocosResNetBackbone

    x = torch.randn(2, 16, 20)
    yield entry("VocosBackbone", x, VocosBackbone, 16, 32, 64, 2)
    yield entry("VocosResNetBackbone", x, VocosResNetBackbone, 16, 32, 2)


def _conformer() -> Entries:
    from conformer import Conformer, ConformerBlock

    x = torch.randn(2, 20, 32)
    yield from on(x, ConformerBlock, dim=32, dim_head=8, heads=4, conv_kernel_size=7)
    yield from on(x, Conformer, dim=32, depth=2, dim_head=8, heads=4, conv_kernel_size=7)


LIBRARIES = {
    "torchaudio": _torchaudio,
    "speechbrain": _speechbrain,
    "asteroid": _asteroid,
    "demucs": _demucs,
    "encodec": _encodec,
    "vocos": _vocos,
    "conformer": _conformer,
}
