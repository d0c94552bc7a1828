"""Checkpoints of the LLaDA family as masked-diffusion Llamas, without the code that they carry.

The network is the same; only the names of tensors and of settings differ. Whatever does not fit is named and refused.

Source: arXiv 2502.09992; layout of the published checkpoints GSAI-ML/LLaDA-8B-Base and -Instruct.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from farspan.errors import ModelNotFound
from farspan.models.masked_diffusion import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig

_SETTINGS = {
    "d_model": "hidden_size",
    "mlp_hidden_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "max_sequence_length": "max_position_embeddings",
    "mask_token_id": "mask_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
_OUTSIDE = {
    "wte.weight": "model.embed_tokens.weight",
    "ln_f.weight": "model.norm.weight",
    "ff_out.weight": "lm_head.weight",
}
_INSIDE = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(\w+)\.weight")


def llada_config(settings: dict[str, object]) -> MaskedDiffusionLlamaConfig:
    """The configuration of a checkpoint from the content of its `config.json`.

    Raises
    ------
    ModelNotFound : a setting is missing, or asks for a network that is not a Llama.
    """
    missing = [name for name in (*_SETTINGS, "vocab_size") if settings.get(name) is None]
    if missing:
        raise ModelNotFound(f"config.json is not that of a LLaDA model: {', '.join(missing)} missing")
    for name, wanted in (("include_bias", False), ("include_qkv_bias", False), ("layer_norm_type", "rms")):
        if settings.get(name, wanted) != wanted:
            raise ModelNotFound(f"config.json has {name}={settings[name]!r}; only {wanted!r} can be loaded")
    fields: dict[str, Any] = {ours: settings[theirs] for theirs, ours in _SETTINGS.items()}
    fields["vocab_size"] = settings.get("embedding_size") or settings["vocab_size"]
    fields["rms_norm_eps"] = settings.get("rms_norm_eps", 1e-5)
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": settings.get("rope_theta", 10_000.0)}
    fields["tie_word_embeddings"] = bool(settings.get("weight_tying", False))
    return MaskedDiffusionLlamaConfig(**fields, bos_token_id=None)


def llada_name(name: str) -> str:
    """Our name of a tensor of the checkpoint, such as `model.transformer.blocks.0.ff_proj.weight`.

    Raises
    ------
    ModelNotFound : the name belongs to no part of the network.
    """
    short = name.removeprefix("model.").removeprefix("transformer.")
    if short in _OUTSIDE:
        return _OUTSIDE[short]
    found = _BLOCK.fullmatch(short)
    if found is None or found[2] not in _INSIDE:
        raise ModelNotFound(f"tensor '{name}' belongs to no part of a LLaDA model")
    return f"model.layers.{found[1]}.{_INSIDE[found[2]]}.weight"


def from_llada(folder: str | Path, *, dtype: torch.dtype | None = None) -> MaskedDiffusionLlama:
    """Load a LLaDA checkpoint; `save_pretrained` of the result then writes one that loads under its own name.

    Parameters
    ----------
    folder : holds `config.json` and safetensors files
    dtype : of the weights; the checkpoint's own where left out

    Raises
    ------
    ModelNotFound : files, settings or tensors are missing, unknown or of another shape; the first one is named.
    """
    folder = Path(folder).expanduser()
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        parts = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelNotFound(f"cannot read the model in {folder}: {' '.join(str(error).split())}") from error
    weights: dict[str, Tensor] = {llada_name(name): tensor for part in parts for name, tensor in part.items()}
    config = llada_config(settings)
    if config.tie_word_embeddings:
        weights.setdefault("lm_head.weight", weights.get("model.embed_tokens.weight", torch.empty(0)))
    with torch.device("meta"):
        expected = MaskedDiffusionLlama(config).state_dict()
    for name, wanted in expected.items():
        if name not in weights:
            raise ModelNotFound(f"the model in {folder} has no tensor for '{name}'")
        if weights[name].shape != wanted.shape:
            given, asked = tuple(weights[name].shape), tuple(wanted.shape)
            raise ModelNotFound(f"the tensor for '{name}' has shape {given} where config.json means {asked}")
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise ModelNotFound(f"the model in {folder} has more than config.json says: '{unknown[0]}'")
    stored = next(iter(weights.values())).dtype
    loaded: MaskedDiffusionLlama = MaskedDiffusionLlama.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype or stored
    )
    nn.Module.eval(loaded)
    return loaded
