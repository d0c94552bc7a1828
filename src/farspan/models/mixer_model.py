"""A small language model with any token mixer in any layer, saved and loaded like every other checkpoint.

It is a Llama whose configuration names one mixer a layer: softmax layers are Llama's own attention, so that levers for
attention and positions work on them; all others come from `farspan.models.mixers`. Hybrids of lightning and softmax
layers are such models, and with `residual="post"` they are the architecture of MiniMax with one expert, so that
weights go over to transformers' own class and back.

Source: arXiv 2302.06218 (the template); arXiv 2501.08313, section 2 (hybrid layout, norm and residual).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

from farspan.models.lightning.cache import state_layer
from farspan.models.lightning.layer import LightningAttention, read_mask
from farspan.models.lightning.slopes import FULL, LINEAR, hybrid_layer_types
from farspan.models.mixers import MixerError, TokenMixer, build_mixer, mixer_class

SOFTMAX, LIGHTNING = "softmax_attention", "lightning"


class MixerConfig(LlamaConfig):
    """A Llama configuration, and the mixer of each layer.

    Attributes
    ----------
    mixers : kinds, one a layer; a shorter list repeats. All softmax by default.
    mixer_settings : settings of kinds, such as `{"average_pool": {"window": 8}}`
    residual : `pre`, the sum goes past the norm; `post`, it is taken after the norm, as in MiniMax
    residual_scale : factor of what is carried over in `post`
    """

    model_type = "farspan_mixer"

    mixers: list[str] | None = None
    mixer_settings: dict[str, dict[str, object]] | None = None
    residual: Literal["pre", "post"] = "pre"
    residual_scale: float = 1.0

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        kinds = self.mixers or [SOFTMAX]
        self.mixers = [kinds[index % len(kinds)] for index in range(self.num_hidden_layers)]
        for kind in set(self.mixers):
            if not mixer_class(kind).traits.causal:
                raise MixerError(f"'{kind}' has no causal form: a language model would see the tokens it predicts")
        # what transformers reads to make a cache
        self.layer_types = [FULL if kind == SOFTMAX else LINEAR for kind in self.mixers]


def hybrid_mixers(num_layers: int, softmax_every: int = 8, mixer: str = LIGHTNING) -> list[str]:
    """Kinds of a hybrid: every `softmax_every`-th layer softmax, all others `mixer`."""
    return [SOFTMAX if kind == FULL else mixer for kind in hybrid_layer_types(num_layers, softmax_every)]


class MixerAttention(nn.Module):
    """A token mixer where a decoder layer has its attention."""

    def __init__(self, mixer: TokenMixer, out_proj: nn.Module, layer_idx: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.out_proj = out_proj
        self.layer_idx = layer_idx

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: object = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        position_ids: Tensor | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        """As transformers calls an attention module; without a cache, packed documents are mixed one by one."""
        batch, length = hidden_states.shape[:2]
        mask, bounds = read_mask(attention_mask, position_ids, batch, length)
        if mask is not None and not bool((mask[:, 1:] >= mask[:, :-1]).all()):
            raise MixerError(f"'{self.mixer.kind}' needs padding at the left; set padding_side='left'")
        if past_key_values is None:
            return self.out_proj(self._documents(hidden_states, bounds, mask)), None
        layer = state_layer(past_key_values, self.layer_idx)
        y, state = self.mixer(hidden_states, padding_mask=mask, state=layer.states)
        layer.advance(state, length)
        return self.out_proj(y), None

    def _documents(self, x: Tensor, bounds: Tensor | None, mask: Tensor | None) -> Tensor:
        if bounds is None:
            y: Tensor = self.mixer(x, padding_mask=mask)[0]
            return y
        flat, cuts = x.flatten(0, 1)[None], bounds.tolist()
        parts = [self.mixer(flat[:, first:last])[0] for first, last in pairwise(cuts)]
        return torch.cat(parts, 1).view(x.shape)


class MixerLayer(LlamaDecoderLayer):
    """A decoder layer whose attention is the mixer that the configuration names."""

    def __init__(self, config: MixerConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        assert config.mixers is not None
        self.residual = config.residual
        self.residual_scale = config.residual_scale
        kind = config.mixers[layer_idx]
        if kind != SOFTMAX:
            self.self_attn = cast(LlamaAttention, _attention(config, kind, layer_idx))

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:  # type: ignore[override]
        """As in Llama, or with the residual taken after each norm."""
        if self.residual == "pre":
            result: Tensor = super().forward(hidden_states, **kwargs)  # type: ignore[arg-type]
            return result
        normed = self.input_layernorm(hidden_states)
        mixed, _ = self.self_attn(hidden_states=normed, **kwargs)
        normed = self.post_attention_layernorm(normed * self.residual_scale + mixed)
        carried: Tensor = normed * self.residual_scale + self.mlp(normed)
        return carried


def _attention(config: MixerConfig, kind: str, layer_idx: int) -> nn.Module:
    """The module of a layer that is not softmax."""
    heads = config.num_attention_heads
    settings = dict((config.mixer_settings or {}).get(kind, {}))
    if kind == LIGHTNING:
        return LightningAttention.new(
            config.hidden_size,
            heads,
            config.head_dim or config.hidden_size // heads,
            layer_idx,
            config.num_hidden_layers,
            gate=bool(settings.get("gate", True)),
        )
    mixer = build_mixer(kind, config.hidden_size, heads, max_length=config.max_position_embeddings, **settings)
    return MixerAttention(mixer, nn.Linear(config.hidden_size, config.hidden_size, bias=False), layer_idx)


class MixerModel(LlamaModel):
    """The decoder."""

    config_class = MixerConfig

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([MixerLayer(config, index) for index in range(config.num_hidden_layers)])
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, TokenMixer):
            module.reset_parameters()

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPast:
        """As in Llama; layers without keys get their place in the cache before anything asks for its length."""
        if use_cache is None:
            use_cache = self.config.use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if past_key_values is not None:
            for index, kind in enumerate(self.config.mixers):
                if kind != SOFTMAX:
                    state_layer(past_key_values, index)
        result: BaseModelOutputWithPast = super().forward(
            input_ids, past_key_values=past_key_values, use_cache=use_cache, **kwargs
        )
        return result


class MixerForCausalLM(LlamaForCausalLM):
    """The decoder with its head."""

    config_class = MixerConfig

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.model = MixerModel(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, TokenMixer):
            module.reset_parameters()


def mixer_kinds(model: nn.Module) -> Sequence[str]:
    """Kinds of a model's layers, from its modules."""
    found = []
    for module in model.modules():
        if isinstance(module, LightningAttention):
            found.append(LIGHTNING)
        elif isinstance(module, MixerAttention):
            found.append(module.mixer.kind)
        elif isinstance(module, LlamaAttention):
            found.append(SOFTMAX)
    return found


AutoConfig.register(MixerConfig.model_type, MixerConfig)
AutoModel.register(MixerConfig, MixerModel)
AutoModelForCausalLM.register(MixerConfig, MixerForCausalLM)
