"""Beyond the trained window a masked-diffusion model keeps its perplexity better than an autoregressive twin does.

That needs a base whose slow pairs are far from a full turn in the window. With a small base both fail alike, and at
four windows both fail with any.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from farspan.engine import perplexity_curve
from farspan.positions import NTKCritical, critical_dim
from farspan.training import Document, trainer_class
from farspan.training.data import pack_rows
from farspan.training.trainer import Batch, BatchList, build_optimizer, training_arguments
from tests.diffusion_models import model_of

WINDOW, HEAD_DIM, THETA, STEPS = 64, 16, 10_000.0, 1000
SETTINGS = {
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
    "max_position_embeddings": WINDOW,
}


def _words() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(2, 12) for _ in range(6)] for _ in range(12)]


WORDS = _words()


def text(rng: random.Random, length: int) -> list[int]:
    """Words of six tokens in random order; all there is to know about a token stands within a few places."""
    return [token for _ in range(length) for token in rng.choice(WORDS)][:length]


def batches() -> Iterator[Batch]:
    """Rows of several lengths: a model that sees both ways would otherwise know one number of neighbours only."""
    rng = random.Random(0)
    while True:
        length = rng.choice((WINDOW, WINDOW, 3 * WINDOW // 4, WINDOW // 2, WINDOW // 4))
        documents = [Document(text(rng, length), [True] * length) for _ in range(16 * WINDOW // length)]
        yield pack_rows([[(document, 1.0)] for document in documents], length, pad_token_id=1)


def trained(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    optimizer = build_optimizer(model, "adamw", learning_rate=4e-3, muon_learning_rate=1e-2, weight_decay=0.0)

    def pace(step: int) -> float:
        return min(1.0, (step + 1) / 20, (STEPS - step) / (0.3 * STEPS))

    trainer_class(model)(
        model=model,
        args=training_arguments(folder, max_steps=STEPS, precision="fp32", data_workers=0),
        train_dataset=BatchList(batches()),
        optimizers=(optimizer, LambdaLR(optimizer, pace)),
    ).train()
    return model.eval()


def perplexities(model: PreTrainedModel) -> list[float]:
    """In the second half of the window, then in the second, third and fourth window's length."""
    rng = random.Random(99)
    curves = [perplexity_curve(model, text(rng, 4 * WINDOW), 16, mc_num=4) for _ in range(8)]
    logs: dict[int, float] = {}
    for points in zip(*curves, strict=True):
        logs[points[0].position] = statistics.mean(math.log(point.chunk) for point in points)
    spans = [(0.5, 1), (1, 2), (2, 3), (3, 4)]
    return [
        math.exp(statistics.mean(value for at, value in logs.items() if low * WINDOW < at <= high * WINDOW))
        for low, high in spans
    ]


@pytest.mark.slow
def test_diffusion_degrades_less_than_its_twin_and_the_lever_helps_both(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert critical_dim(THETA, HEAD_DIM, WINDOW) < HEAD_DIM
    diffusion = model_of(**SETTINGS)
    kept = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "eos_token_id", "pad_token_id"}
    shape = {name: value for name, value in diffusion.config.to_dict().items() if name in kept}
    torch.manual_seed(0)
    twin = LlamaForCausalLM(LlamaConfig(**shape, **SETTINGS))
    growth = {}
    for name, model in (("diffusion", trained(diffusion, tmp_path)), ("twin", trained(twin, tmp_path))):
        plain = perplexities(model)
        with NTKCritical(factor=2)(model):
            stretched = perplexities(model)
        assert plain[0] < 3  # of twelve tokens that occur
        assert stretched[3] < plain[3] / 2
        growth[name] = [value / plain[0] for value in plain]
    assert growth["diffusion"][2] < 3
    assert growth["twin"][2] > 10
    assert growth["diffusion"][3] < growth["twin"][3]
