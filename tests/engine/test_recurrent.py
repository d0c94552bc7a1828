"""The engine with layers that keep a state: batches of unequal prompts give what each prompt gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MiniMaxConfig, MiniMaxForCausalLM, PreTrainedModel

from farspan.attention.lightning import Lightning
from farspan.attention.linearize import Linearize
from farspan.engine import Engine, Request
from farspan.engine.forward import Forward, UnsupportedModel
from farspan.models import MixerConfig, MixerForCausalLM

SIZES: dict[str, object] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
PROMPTS = [
    torch.randint(3, 61, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (20, 20, 17, 33)
]


class Words:
    """Ids as text."""

    eos_token_id = None

    def decode(self, ids: list[int], **kwargs: object) -> str:
        return " ".join(map(str, ids))


def _lively(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)
    return model.eval()


def _minimax() -> PreTrainedModel:
    layers = ["linear_attention", "full_attention"] * 2
    return _lively(MiniMaxForCausalLM(MiniMaxConfig(**SIZES, num_local_experts=2, layer_types=layers, block_size=8)))


def _mixers() -> PreTrainedModel:
    return _lively(MixerForCausalLM(MixerConfig(**SIZES, mixers=["lightning", "softmax_attention"])))


def _batches() -> Iterator[dict[str, torch.Tensor]]:
    for seed in range(4):
        yield {"input_ids": torch.randint(3, 61, (2, 24), generator=torch.Generator().manual_seed(seed))}


@pytest.mark.parametrize("kind", ["minimax", "mixers", "linearize"])
def test_a_batch_gives_what_each_prompt_gives_alone(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    switched: AbstractContextManager[None] = nullcontext()
    if kind == "minimax":
        model = _minimax()
        switched = Lightning()(model)
    elif kind == "mixers":
        model = _mixers()
    else:
        model = _lively(LlamaForCausalLM(LlamaConfig(**SIZES)))
        lever = Linearize(keep_every=2, tokens=96).fit(model, _batches(), tmp_path / "w.safetensors", batch_tokens=48)
        switched = lever(model)
    with switched:
        with Engine(model, Words()) as engine:  # type: ignore[arg-type]
            results = engine.generate_batch([Request(ids, max_new_tokens=6) for ids in PROMPTS])
        for ids, result in zip(PROMPTS, results, strict=True):
            alone = model.generate(torch.tensor([ids]), max_new_tokens=6, min_new_tokens=6, do_sample=False)
            assert result.ids == alone[0, len(ids) :].tolist()


def test_minimax_as_transformers_has_it_is_refused_in_one_line() -> None:
    with pytest.raises(UnsupportedModel, match="lever 'lightning'"):
        Forward(_minimax()).fresh_cache()
