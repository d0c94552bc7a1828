"""Masked-diffusion language models: a Llama whose tokens see each other in both directions and fill in masked places.

This is the network alone, an ordinary transformers model with a configuration of its own, known to the Auto classes
once this room is imported. Output at a place predicts the token of that same place. How masks are turned into text is
the engine's, how the network learns the training room's.

Source: arXiv 2502.09992, section 2; arXiv 2506.14429.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, LlamaConfig, LlamaModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

MODEL_TYPE = "masked_diffusion_llama"


class MaskedDiffusionLlamaConfig(LlamaConfig):
    """A Llama configuration with the id that stands for a masked token.

    Fields beside Llama's
    ---------------------
    mask_token_id : id of the mask; its embedding is an ordinary row of the vocabulary
    is_causal : always false; transformers' mask functions read it
    """

    model_type = MODEL_TYPE

    mask_token_id: int | None = None
    is_causal: bool = False


class MaskedDiffusionLlama(LlamaPreTrainedModel):
    """The network. It has no cache argument and no `generate`, so nothing takes it for an autoregressive model.

    Source: arXiv 2502.09992, section 2.
    """

    config_class = MaskedDiffusionLlamaConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: MaskedDiffusionLlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for layer in self.model.layers:
            # Kernels that are given no mask ask the attention module itself whether it is causal.
            cast(nn.Module, layer.self_attn).is_causal = False  # type: ignore[assignment]
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: object,
    ) -> MaskedLMOutput:
        """Logits of every place.

        Parameters
        ----------
        input_ids : [batch, length], the mask's id where a token is unknown
        attention_mask : [batch, length], 0 for padding that nobody sees; or [batch, 1, length, length], added to scores
        position_ids : [batch, length]; counts from 0 where absent
        labels : [batch, length], -100 where the loss does not look; compared with the logits of the same place
        logits_to_keep : the last so many places, or indices of places; 0 keeps all

        Returns
        -------
        `logits` [batch, places kept, vocabulary], and `loss` where labels are given, their mean cross-entropy.
        """
        kwargs["use_cache"] = False
        states = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        ).last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits: Tensor = self.lm_head(states[:, kept])
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, kept].flatten())
        return MaskedLMOutput(loss=cast("torch.FloatTensor | None", loss), logits=cast("torch.FloatTensor", logits))


AutoConfig.register(MODEL_TYPE, MaskedDiffusionLlamaConfig, exist_ok=True)
AutoModelForMaskedLM.register(MaskedDiffusionLlamaConfig, MaskedDiffusionLlama, exist_ok=True)
# Loaders of language models look under this class alone.
AutoModelForCausalLM.register(MaskedDiffusionLlamaConfig, MaskedDiffusionLlama, exist_ok=True)
