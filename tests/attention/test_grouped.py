"""Grouped heads packed as rows: equal to the written-out reference, and faster in decoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.attention.grouped import grouped_attention, reference


def inputs(
    batch: int, heads: int, kv_heads: int, q_len: int, kv_len: int, dim: int, value_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, q_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, value_dim))
    query, key, value = (torch.randn(batch, *shape, generator=generator).to(dtype) for shape in shapes)
    return query, key, value


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize(("q_len", "value_dim"), [(1, 16), (5, 16), (3, 24)])
def test_equals_the_reference(
    heads: int, kv_heads: int, q_len: int, value_dim: int, dtype: torch.dtype, tolerance: float
) -> None:
    query, key, value = inputs(2, heads, kv_heads, q_len, 70, 16, value_dim, dtype)
    causal = torch.arange(70) <= torch.arange(70 - q_len, 70)[:, None]
    some = torch.rand(2, q_len, 70, generator=torch.Generator().manual_seed(1)) < 0.5
    some[0, 0] = False
    for mask in (None, causal, some):
        output, lse = grouped_attention(query, key, value, scaling=0.3, mask=mask)
        expected, expected_lse = reference(query, key, value, scaling=0.3, mask=mask)
        torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(lse, expected_lse, atol=tolerance, rtol=tolerance)
        assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    empty, no_keys = grouped_attention(query, key, value, mask=some)
    assert not empty[0, :, 0].any()
    assert (no_keys[0, :, 0] == -torch.inf).all()


def test_a_bias_in_place_of_a_mask() -> None:
    query, key, value = inputs(2, 4, 2, 3, 20, 8, 8, torch.float32)
    there = torch.rand(2, 20, generator=torch.Generator().manual_seed(2)) < 0.7
    bias = torch.zeros(2, 20).masked_fill(~there, -torch.inf)
    expected = grouped_attention(query, key, value, mask=there[:, None].expand(2, 3, 20))
    for got, wanted in zip(grouped_attention(query, key, value, bias=bias), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def median_ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int = 7) -> float:
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for run, taken in zip((slow, fast), seconds, strict=True):
            started = time.process_time()
            run()
            taken.append(time.process_time() - started)
    return statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:])


@pytest.mark.timing
@pytest.mark.parametrize(("length", "dtype", "least"), [(8192, torch.float32, 1.8), (32768, torch.bfloat16, 8.0)])
def test_decoding_is_faster_than_expanded_heads(length: int, dtype: torch.dtype, least: float) -> None:
    torch.set_num_threads(1)
    query, key, value = inputs(1, 32, 8, 1, length, 128, 128, dtype)

    def expanded() -> Tensor:
        return F.scaled_dot_product_attention(query, *(x.repeat_interleave(4, dim=1) for x in (key, value)))

    with torch.no_grad():
        torch.testing.assert_close(grouped_attention(query, key, value)[0], expanded(), atol=2e-3, rtol=2e-2)
        assert median_ratio(expanded, lambda: grouped_attention(query, key, value)) >= least
