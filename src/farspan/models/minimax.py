"""Weights between hybrids of lightning and softmax layers and transformers' MiniMax class, both ways.

A `MixerForCausalLM` with `residual="post"` computes what a MiniMax model with one expert computes: one expert of one
gets all the weight. So a hybrid trained here loads in plain transformers, and a small MiniMax without real experts can
be opened here. Nothing is approximated; what has no counterpart is refused.

Source: arXiv 2501.08313 (MiniMax-01), section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import MiniMaxConfig, MiniMaxForCausalLM

from farspan.errors import LeverNotApplicable
from farspan.models.lightning.slopes import FULL, LINEAR
from farspan.models.mixer_model import LIGHTNING, SOFTMAX, MixerConfig, MixerForCausalLM

SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
)


@torch.no_grad()
def to_minimax(model: MixerForCausalLM) -> MiniMaxForCausalLM:
    """The same model in transformers' MiniMax class.

    transformers derives slopes from the head count by a formula that departs from the published one where heads are no
    power of two; the lever `lightning` restores it there.

    Raises
    ------
    LeverNotApplicable : other mixers, no gate, or the residual before the norm.
    """
    config = model.config
    other = sorted(set(config.mixers) - {LIGHTNING, SOFTMAX})
    gated = (config.mixer_settings or {}).get(LIGHTNING, {}).get("gate", True)
    if other or config.residual != "post" or not gated:
        raise LeverNotApplicable(
            "MiniMax has lightning layers with a gate, softmax layers and the residual after the norm; this model has "
            f"mixers {', '.join(other) or 'that fit'}, residual '{config.residual}', gate {bool(gated)}"
        )
    scale = config.residual_scale
    target = MiniMaxForCausalLM(
        MiniMaxConfig(
            **{name: getattr(config, name) for name in SHARED},
            layer_types=[FULL if kind == SOFTMAX else LINEAR for kind in config.mixers],
            num_local_experts=1,
            num_experts_per_tok=1,
            full_attn_alpha_factor=scale,
            linear_attn_alpha_factor=scale,
            mlp_alpha_factor=scale,
        )
    )
    weights = {}
    for name, tensor in model.state_dict().items():
        head, _, tail = name.partition(".mlp.")
        if tail == "up_proj.weight":
            continue
        if tail == "gate_proj.weight":
            up = model.state_dict()[f"{head}.mlp.up_proj.weight"]
            weights[f"{head}.mlp.experts.gate_up_proj"] = torch.cat([tensor, up])[None]
        elif tail == "down_proj.weight":
            weights[f"{head}.mlp.experts.down_proj"] = tensor[None]
        else:
            weights[name] = tensor
    _load(target, weights)
    nn.Module.to(target, model.dtype)
    target.train(model.training)
    return target


@torch.no_grad()
def from_minimax(model: MiniMaxForCausalLM) -> MixerForCausalLM:
    """The same model as a `MixerForCausalLM`.

    Raises
    ------
    LeverNotApplicable : several experts, a sliding window, or residual factors that differ.
    """
    config = model.config
    scales = {config.full_attn_alpha_factor, config.linear_attn_alpha_factor, config.mlp_alpha_factor}
    added = {config.full_attn_beta_factor, config.linear_attn_beta_factor, config.mlp_beta_factor}
    if config.num_local_experts != 1 or config.sliding_window is not None or len(scales) > 1 or added != {1}:
        raise LeverNotApplicable(
            "only a MiniMax with one expert, no sliding window, one alpha and every beta 1 is a mixer model; this one "
            f"has {config.num_local_experts} experts, alphas {sorted(scales)}, betas {sorted(added)}"
        )
    target = MixerForCausalLM(
        MixerConfig(
            **{name: getattr(config, name) for name in SHARED},
            mixers=[SOFTMAX if kind == FULL else LIGHTNING for kind in config.layer_types or ()],
            residual="post",
            residual_scale=float(scales.pop()),
        )
    )
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        head, _, tail = name.partition(".mlp.")
        if tail == "experts.gate_up_proj":
            gate, up = tensor[0].chunk(2)
            weights[f"{head}.mlp.gate_proj.weight"], weights[f"{head}.mlp.up_proj.weight"] = gate, up
        elif tail == "experts.down_proj":
            weights[f"{head}.mlp.down_proj.weight"] = tensor[0]
        elif tail != "gate.weight":
            weights[name] = tensor
    _load(target, weights)
    nn.Module.to(target, model.dtype)
    target.train(model.training)
    return target


def _load(target: MiniMaxForCausalLM | MixerForCausalLM, weights: dict[str, Tensor]) -> None:
    """Copy weights by name; buffers of decay, and routers with one choice, have no counterpart and stay."""
    own = target.state_dict()
    for name, tensor in weights.items():
        if name in own:
            own[name].copy_(tensor)
    left = (".mlp.gate.weight", "_decay", "slope_rate")
    missing = [name for name in own if name not in weights and not name.endswith(left)]
    assert not missing, missing
