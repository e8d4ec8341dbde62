"""transformers: one small base model of each architecture that random weights and a simple input are enough for."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from benchmarks.thirdparty.entry import Built, Entries, Entry, image, tokens, wave

_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "num_blocks"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner"), 64),
    **dict.fromkeys(("hidden_dim", "moe_intermediate_size", "dim_feedforward"), 64),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "head_dim": 8,
    "d_kv": 8,
    "image_size": 32,
    "patch_size": 8,
    "num_experts_per_tok": 2,
    "state_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_mel_bins": 16,
}

NAMES = """
bert roberta distilbert albert electra deberta deberta-v2 mpnet xlm-roberta camembert convbert squeezebert mobilebert
ibert megatron-bert roformer nystromformer fnet big_bird rembert xlm xlnet flaubert layoutlm longformer ernie yoso mra
data2vec-text splinter canine esm modernbert gpt2 gpt_neox gptj opt bloom llama mistral mixtral qwen2 qwen3 qwen2_moe
qwen3_moe gemma gemma2 gemma3_text phi phi3 stablelm falcon mpt codegen ctrl starcoder2 olmo olmo2 olmoe cohere
granite granitemoe deepseek_v3 mamba mamba2 falcon_mamba rwkv recurrent_gemma jamba zamba persimmon nemotron dbrx glm
helium xglm biogpt openai-gpt t5 mt5 umt5 bart mbart pegasus blenderbot blenderbot-small marian m2m_100 led longt5
switch_transformers prophetnet plbart fsmt nllb-moe vit deit beit swin swinv2 convnext convnextv2 resnet regnet
segformer poolformer cvt levit mobilevit mobilevitv2 mobilenet_v1 mobilenet_v2 efficientnet dinov2 focalnet van pvt
pvt_v2 data2vec-vision vit_mae vit_msn vitdet bit hiera ijepa dpt glpn donut-swin swiftformer timesformer videomae
vivit yolos clip siglip chinese_clip blip groupvit altclip clipseg bridgetower vilt flava git owlvit maskformer
mask2former wav2vec2 hubert wavlm sew sew-d unispeech unispeech-sat data2vec-audio wav2vec2-conformer wav2vec2-bert
audio-spectrogram-transformer whisper speech_to_text speecht5 mctct clap univnet encodec dac mimi patchtst
patchtsmixer informer autoformer time_series_transformer decision_transformer
"""
"""Of architectures, as transformers calls them."""


def small(name: str) -> Built:
    """The base model of one architecture, and what it takes."""
    from transformers import CONFIG_MAPPING, AutoModel

    kind = CONFIG_MAPPING[name]
    known = set(inspect.signature(kind.__init__).parameters) | set(getattr(kind, "__annotations__", {}))
    known |= set(getattr(kind, "attribute_map", {}))
    config = kind(**{key: value for key, value in _SMALL.items() if key in known})
    model = AutoModel.from_config(config)
    return model, _example(model, config)


def _example(model: Any, config: Any) -> dict[str, Any]:
    takes = inspect.signature(model.forward).parameters
    given: dict[str, Any] = {}
    if "input_ids" in takes:
        given["input_ids"] = tokens()
    if "pixel_values" in takes:
        size = getattr(config, "image_size", None) or 64
        height, width = (size, size) if isinstance(size, int) else size
        given["pixel_values"] = image(height, width, channels=getattr(config, "num_channels", 3))
    if "input_values" in takes:
        given["input_values"] = wave(1600)
    if "input_features" in takes:
        given["input_features"] = torch.randn(2, getattr(config, "num_mel_bins", 16), 2 * 128)
    if "decoder_input_ids" in takes:
        given["decoder_input_ids"] = tokens(5)
    return given


def _transformers() -> Entries:
    import transformers

    transformers.logging.set_verbosity_error()
    assert transformers.AutoModel and transformers.PreTrainedModel  # loaded before processes are forked
    for name in NAMES.split():
        yield Entry(name, lambda name=name: small(name))


LIBRARIES = {"transformers": _transformers}
