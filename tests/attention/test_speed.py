"""Sparse attention must be faster than dense, in process time on one thread, both sides interleaved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import pytest
import torch
import torch.nn.functional as F

from farspan.attention import block_sparse_attention
from farspan.attention.executors.choice import random_plan
from tests.attention.plans import random_inputs

pytestmark = [pytest.mark.timing, pytest.mark.slow]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def test_gather_at_a_quarter_of_the_blocks() -> None:
    # the benchmark asks for 2.5; here less, so that only a real loss of speed fails
    query, key, value = random_inputs(1, 8, 8, 8192, 8192, 64)
    plan = random_plan(8192, 8, 0.25, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {"dense": [], "gather": []}
    for _ in range(4):
        started = time.process_time()
        F.scaled_dot_product_attention(query, key, value, is_causal=True)
        between = time.process_time()
        block_sparse_attention(query, key, value, plan, backend="gather")
        seconds["dense"].append(between - started)
        seconds["gather"].append(time.process_time() - between)
    assert median(seconds["dense"][1:]) > 2.0 * median(seconds["gather"][1:])
