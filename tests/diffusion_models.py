"""Tiny masked-diffusion models for tests of several rooms."""

from __future__ import annotations

import torch

from farspan.models import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig


def model_of(layers: int = 2, seed: int = 0, **settings: object) -> MaskedDiffusionLlama:
    torch.manual_seed(seed)
    config = MaskedDiffusionLlamaConfig(
        **{
            "vocab_size": 41,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "mask_token_id": 40,
            "eos_token_id": 0,
            "pad_token_id": 1,
            "bos_token_id": None,
            "initializer_range": 0.2,
            **settings,
        }
    )
    return MaskedDiffusionLlama(config).eval()


def ids_of(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 40, (batch, length), generator=torch.Generator().manual_seed(seed))
