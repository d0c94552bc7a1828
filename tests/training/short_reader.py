"""A tiny model and the task it is trained on in tests: a random passage that repeats, to be continued.

The first tokens of a row cannot be known; from the second repeat on each token stands one period earlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from farspan.training import FineTune

WINDOW = 64
ROWS = 32
BATCH_TOKENS = ROWS * WINDOW


def fresh_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def rows_of(generator: torch.Generator, rows: int, length: int) -> torch.Tensor:
    """Ids [rows, length]; every row repeats a passage of 8 to 24 tokens of its own."""
    found = []
    for _ in range(rows):
        period = int(torch.randint(8, 25, (1,), generator=generator))
        passage = torch.randint(1, 64, (period,), generator=generator)
        found.append(passage.repeat(length // period + 1)[:length])
    return torch.stack(found)


def batches(seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches within the window."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        ids = rows_of(generator, ROWS, WINDOW)
        yield {"input_ids": ids, "labels": ids, "loss_weights": torch.ones(ids.shape)}


def loss_at(model: PreTrainedModel, length: int, rows: int = ROWS) -> float:
    """Mean loss in nats over the last 32 tokens of rows of a length; the rows are the same in every call."""
    ids = rows_of(torch.Generator().manual_seed(99), rows, length)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return float(torch.nn.functional.cross_entropy(logits[:, -33:-1].flatten(0, 1), ids[:, -32:].flatten()))


@lru_cache(maxsize=1)
def _learned() -> dict[str, torch.Tensor]:
    model = fresh_model()
    with TemporaryDirectory() as folder:
        tuned = FineTune(tokens=600 * BATCH_TOKENS, learning_rate=3e-3, muon_learning_rate=2e-2)
        fitted = tuned.fit(
            model, batches(1), Path(folder) / "w.safetensors", batch_tokens=BATCH_TOKENS, precision="fp32"
        )
        fitted.bake(model)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def short_reader() -> LlamaForCausalLM:
    """The model, trained to continue rows within its window; trained once a process."""
    model = fresh_model()
    model.load_state_dict(_learned())
    return model
