"""A window grown in a stage with a larger base: what is lost beyond the window comes back with brief training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from farspan.positions import ThetaStage, enter_stage, get_rope
from farspan.training import FineTune
from tests.training.short_reader import BATCH_TOKENS, WINDOW, loss_at, rows_of, short_reader

pytestmark = pytest.mark.slow


def long_batches(seed: int) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        ids = rows_of(generator, BATCH_TOKENS // (4 * WINDOW), 4 * WINDOW)
        yield {"input_ids": ids, "labels": ids, "loss_weights": torch.ones(ids.shape)}


def test_a_stage_restores_beyond_the_window_what_was_known_within(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = short_reader()
    within, beyond = loss_at(model, WINDOW), loss_at(model, 4 * WINDOW)
    assert beyond > within + 1
    spec = enter_stage(model, ThetaStage(length=4 * WINDOW, rope_theta=16 * get_rope(model.config).rope_theta))
    assert spec.target_length == model.config.max_position_embeddings == 4 * WINDOW
    untrained = loss_at(model, 4 * WINDOW)
    tuned = FineTune(tokens=150 * BATCH_TOKENS, learning_rate=1e-3, muon_learning_rate=5e-3)
    tuned.fit(model, long_batches(3), tmp_path / "w", batch_tokens=BATCH_TOKENS, precision="fp32").bake(model)
    after = loss_at(model, 4 * WINDOW)
    assert after < untrained
    assert after < (within + beyond) / 2
