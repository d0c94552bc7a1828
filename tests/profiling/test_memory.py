"""Memory is counted to the byte where it can be, and the same on every run."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, LlamaForCausalLM, MistralConfig, PreTrainedModel

from farspan.engine.forward import Forward
from farspan.profiling import kv_bytes_per_token, weight_bytes
from farspan.profiling.memory import _cpu_peak, measure_memory


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_measured_keys_and_values_equal_the_formula(llama: PreTrainedModel, rows: int) -> None:
    for length in (17, 128):
        split = measure_memory(Forward(llama), ids(rows, length), keep=1)
        assert split.kv_cache == rows * length * kv_bytes_per_token(llama.config)


def test_bytes_per_token_by_configuration() -> None:
    shape = {"num_hidden_layers": 6, "num_attention_heads": 8, "hidden_size": 128}
    grouped = LlamaConfig(**shape, num_key_value_heads=2, head_dim=32, dtype=torch.bfloat16)
    assert kv_bytes_per_token(grouped) == 6 * 2 * 2 * 32 * 2
    assert kv_bytes_per_token(grouped, 1) == 6 * 2 * 2 * 32
    assert kv_bytes_per_token(GPT2Config(n_layer=3, n_head=4, n_embd=64), 4) == 3 * 2 * 64 * 4
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    assert kv_bytes_per_token(Gemma3TextConfig(**shape, num_key_value_heads=2, head_dim=32, layer_types=kinds), 2) == (
        2 * 2 * 32 * 2
    )
    assert kv_bytes_per_token(MistralConfig(**shape, sliding_window=16), 2) == 0


@torch.no_grad()
def test_recurrent_state_does_not_grow(mamba: PreTrainedModel) -> None:
    short, long = (measure_memory(Forward(mamba), ids(1, length), keep=1) for length in (16, 96))
    assert short.kv_cache == long.kv_cache > 0


@torch.no_grad()
def test_the_parts_add_up_and_do_not_change(llama: PreTrainedModel) -> None:
    first, again = (measure_memory(Forward(llama), ids(1, 256), keep=1) for _ in range(2))
    parts = first.weights + first.kv_cache + first.logits + first.activations_peak
    assert first.allocated_peak == parts
    assert first.weights == weight_bytes(llama)
    assert first.activations_peak > 0
    assert first.resident_peak is not None
    assert first.resident_peak > first.allocated_peak
    assert again.model_copy(update={"resident_peak": None}) == first.model_copy(update={"resident_peak": None})


@torch.no_grad()
def test_logits_of_all_positions_show() -> None:
    config = LlamaConfig(
        vocab_size=6000, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, head_dim=16
    )
    forward = Forward(LlamaForCausalLM(config).eval())
    last, every = (measure_memory(forward, ids(2, 400), keep=keep) for keep in (1, 0))
    assert last.logits == 2 * 6000 * 4
    assert every.logits == 2 * 400 * 6000 * 4
    assert every.allocated_peak >= last.allocated_peak + 0.9 * every.logits
    assert every.activations_peak < 0.1 * every.logits


def test_peaks_of_known_allocations() -> None:
    def run() -> None:
        first = torch.zeros(1000, dtype=torch.float32)
        second = torch.zeros(2000, dtype=torch.float32)
        del second
        third = torch.zeros(500, dtype=torch.float32)
        del first, third

    assert _cpu_peak(run) == 12_000


def test_shared_weights_count_once() -> None:
    tied = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, head_dim=16
    )
    loose = LlamaForCausalLM(tied)
    both = weight_bytes(loose)
    assert isinstance(loose.lm_head, nn.Linear)
    loose.lm_head.weight = loose.model.embed_tokens.weight
    assert both - weight_bytes(loose) == 50 * 16 * 4


def test_the_recorder_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    assert [_cpu_peak(lambda: torch.zeros(10)) for _ in range(2)] == [40, 40]
    assert capfd.readouterr() == ("", "")
