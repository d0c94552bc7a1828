"""Tiny models and tokenizers of the engine's tests, built from configurations in code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM

torch.set_num_threads(1)

END, PAD = 256, 257
VOCABULARY = 258
CHAT_TEMPLATE = (
    "{% if tools %}[tools]{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% endif %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "bos_token_id": None,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_SMALL),
    "qwen3": lambda: Qwen3Config(**_SMALL),
    "mistral-sliding": lambda: MistralConfig(**_SMALL, sliding_window=24),
    "phi3": lambda: Phi3Config(**_SMALL),
    "gemma2-softcap": lambda: Gemma2Config(**_SMALL, sliding_window=24, query_pre_attn_scalar=16),
    "gemma3": lambda: Gemma3TextConfig(
        **_SMALL, sliding_window=24, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=16
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_positions=4096, n_embd=64, n_layer=2, n_head=4, eos_token_id=END, bos_token_id=None
    ),
}


def make_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model whose answers vary with the prompt: the head is scaled up so that no token always wins."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name and "wte" not in name:
                weight.mul_(4.0)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, an end token and a padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def llama() -> PreTrainedModel:
    return make_model(CONFIGS["llama"]())


@pytest.fixture(scope="session")
def mamba() -> PreTrainedModel:
    return make_model(
        Mamba2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_heads=4,
            head_dim=16,
            state_size=8,
            n_groups=1,
            chunk_size=16,
            eos_token_id=END,
            pad_token_id=PAD,
            bos_token_id=None,
        )
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, llama: PreTrainedModel) -> Path:
    """The tiny Llama saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    llama.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
