"""Tiny models of many architectures, and a cache folder of its own for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention import AttentionContext, AttentionLever, BlockPlan, Selection
from farspan.attention.executors import choice


class KeepAll(AttentionLever):
    """Reads everything through the sparse path: must equal dense attention."""

    name: ClassVar[str] = "keep-all"

    block_size: int = 16

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        size, q_len, kv_len = self.block_size, query.shape[2], key.shape[2]
        keep = torch.ones(len(query), 1, -(-q_len // size), -(-kv_len // size), dtype=torch.bool)
        return Selection(BlockPlan.from_block_mask(keep, q_len=q_len, kv_len=kv_len, block_q=size, block_k=size))


COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# window 24 binds on the prompts of the tests
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-sliding": ("Mistral", {"sliding_window": 24}),
    "gemma2": ("Gemma2", {"sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3", {"sliding_window": 24, "query_pre_attn_scalar": 16}),
    "gpt-oss": (
        "GptOss",
        {
            "sliding_window": 24,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "phi3": ("Phi3", {"sliding_window": None}),
    # attention in one layer of two
    "granite-hybrid": (
        "GraniteMoeHybrid",
        {
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_n_groups": 1,
            "mamba_d_state": 16,
            "mamba_expand": 2,
            "mamba_chunk_size": 16,
            "shared_intermediate_size": 96,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
        },
    ),
    # keys wider than values
    "deepseek-v3": (
        "DeepseekV3",
        {
            "head_dim": 8,
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
    ),
}


def tiny_model(name: str) -> PreTrainedModel:
    """A random model of an architecture in float32, with the attention transformers gives it by itself."""
    family, settings = ARCHITECTURES[name]
    suffix = "TextConfig" if family == "Gemma3" else "Config"
    arguments = {**COMMON, **settings}
    config = getattr(transformers, family + suffix)(**arguments)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8.0)
        for module in model.modules():
            if hasattr(module, "sinks"):
                module.sinks.normal_(0.0, 1.0)
    return model


@pytest.fixture(scope="session")
def build() -> Callable[[str], PreTrainedModel]:
    """Makes a tiny model by its name in `ARCHITECTURES`."""
    return tiny_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Measurements of a test are its own."""
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path / "cache"))
    kept = dict(choice._known)
    choice._known.clear()
    yield tmp_path / "cache"
    choice._known.clear()
    choice._known.update(kept)
