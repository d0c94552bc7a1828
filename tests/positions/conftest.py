"""Tiny models of the architectures the positions room must serve, built from configurations in code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GlmConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    StableLmConfig,
)

from farspan.positions import methods

WINDOW = 64
COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    # With the usual smaller weights attention is so flat that positions hardly reach the logits.
    "initializer_range": 0.1,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=16),
    "gemma3": lambda: Gemma3TextConfig(
        **GROUPED,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "stablelm": lambda: StableLmConfig(**GROUPED, partial_rotary_factor=0.5),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=None),
    "phi3": lambda: Phi3Config(**GROUPED, original_max_position_embeddings=WINDOW),
    "gpt_neox": lambda: GPTNeoXConfig(**COMMON, rotary_pct=0.5),
    "glm": lambda: GlmConfig(**GROUPED, head_dim=16, partial_rotary_factor=0.5),
}
# Settings without which a method does not work here; a method of the table that is not named is tested without any.
SETTINGS: dict[str, dict[str, object]] = {"theta": {"rope_theta": 300_000.0}, "clex": {"act": "none"}}
METHODS = tuple(methods())


def config_of(architecture: str) -> PretrainedConfig:
    return CONFIGS[architecture]()


def model_of(architecture: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(architecture), dtype=torch.float32)
    return model.eval()


def settings_of(method: str, rotary_dim: int) -> dict[str, object]:
    """Settings that the method needs on a model with this many rotary channels."""
    if method == "longrope":
        return {"factors": [1.0 + 0.4 * pair for pair in range(rotary_dim // 2)]}
    return SETTINGS.get(method, {})


def ids_of(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def llama() -> PreTrainedModel:
    return model_of("llama")
