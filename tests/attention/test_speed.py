"""Sparse attention must be faster than dense, in process time on one thread, both sides interleaved."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from statistics import median

import pytest
import torch
import torch.nn.functional as F

from farspan.attention import FlexFailed, block_sparse_attention
from farspan.attention.executors.choice import random_plan
from tests.attention.plans import random_inputs

pytestmark = [pytest.mark.timing, pytest.mark.slow]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def times_faster(backend: str) -> float:
    """How many times faster than dense an executor is at a quarter of the blocks of 8k keys."""
    query, key, value = random_inputs(1, 8, 8, 8192, 8192, 64)
    plan = random_plan(8192, 8, 0.25, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {"dense": [], "sparse": []}
    for _ in range(4):
        started = time.process_time()
        F.scaled_dot_product_attention(query, key, value, is_causal=True)
        between = time.process_time()
        block_sparse_attention(query, key, value, plan, backend=backend)  # type: ignore[call-overload]
        seconds["dense"].append(between - started)
        seconds["sparse"].append(time.process_time() - between)
    return median(seconds["dense"][1:]) / median(seconds["sparse"][1:])


# the benchmark shows 2.4, 3.5 and 1.2; here less, so that only a real loss of speed fails
@torch.no_grad()
def test_gather_at_a_quarter_of_the_blocks() -> None:
    assert times_faster("gather") > 2.0


@torch.no_grad()
@pytest.mark.skipif(not any(shutil.which(name) for name in ("cc", "gcc", "clang")), reason="no C compiler")
def test_native_at_a_quarter_of_the_blocks() -> None:
    assert times_faster("native") > 2.8


@torch.no_grad()
def test_flex_at_a_quarter_of_the_blocks() -> None:
    try:
        assert times_faster("flex") > 1.0
    except FlexFailed as error:
        pytest.skip(str(error))
