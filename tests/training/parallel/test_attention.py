"""Attention over shards is attention over the whole: forward, backward, bytes, padding, decoding, streaming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from farspan.models.lightning import lightning_attention
from farspan.training.parallel import (
    Communicator,
    ParallelError,
    ProcessCommunicator,
    communication_bytes,
    distributed_attention,
    distributed_decode,
    distributed_lightning,
    run_ranks,
    shard_sequence,
    streaming_attention,
    tiles,
    unshard_sequence,
)
from farspan.training.parallel.layouts import LAYOUTS, Layout
from farspan.training.parallel.plan import STRATEGIES, Strategy

BATCH, DIM = 2, 8


def _inputs(heads: int, kv_heads: int, length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v and the gradient of the output"""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(BATCH, count, length, DIM, generator=generator).to(dtype)
        for count in (heads, kv_heads, kv_heads, heads)
    ]


def _one_process(inputs: Sequence[Tensor], causal: bool, lengths: Tensor | None = None) -> list[Tensor]:
    """Output and gradients of q, k, v from one softmax attention."""
    q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
    size = q.shape[2]
    mask = torch.ones(BATCH, 1, size, size, dtype=torch.bool)
    if causal:
        mask = mask.tril()
    if lengths is not None:
        mask = mask & (torch.arange(size) < lengths[:, None, None, None])
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return [output.detach(), *torch.autograd.grad(output, (q, k, v), inputs[3])]


def _shards(
    ranks: Communicator,
    inputs: Sequence[Tensor],
    strategy: Strategy,
    layout: Layout,
    causal: bool,
    lengths: Tensor | None = None,
) -> tuple[list[Tensor], int]:
    """The same through shards, put together again, and the bytes that forward received."""
    q, k, v, gradient = (shard_sequence(x, ranks, layout, 2, pad=True) for x in inputs)
    parts = [x.requires_grad_() for x in (q, k, v)]
    before = ranks.received_bytes
    output = distributed_attention(
        *parts, group=ranks, strategy=strategy, layout=layout, causal=causal, kv_lengths=lengths
    )
    assert isinstance(output, Tensor)
    received = ranks.received_bytes - before
    found = [output.detach(), *torch.autograd.grad(output, parts, gradient)]
    return [unshard_sequence(x, ranks, layout, 2, length=inputs[0].shape[2]) for x in found], received


def _assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_threads_equal_one_process_and_receive_what_is_planned(ranks: int, strategy: Strategy, layout: Layout) -> None:
    for heads, kv_heads in ((4, 4), (4, 2), (8, 1)):
        inputs = _inputs(heads, kv_heads, 24)
        planned = communication_bytes(BATCH, heads, kv_heads, 24, DIM, ranks, 4)[strategy]
        for causal in (True, False):
            expected = _one_process(inputs, causal)
            for found, received in run_ranks(ranks, lambda c: _shards(c, inputs, strategy, layout, causal)):  # noqa: B023
                _assert_equal(found, expected)
                assert received == planned


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lengths_that_do_not_divide_and_rows_of_unequal_length(strategy: Strategy, layout: Layout) -> None:
    inputs = _inputs(4, 2, 21)
    for causal in (True, False):
        for lengths in (torch.tensor([21, 21]), torch.tensor([21, 9])):
            real = torch.arange(21) < lengths[:, None]
            inputs[3] = inputs[3] * real[:, None, :, None]
            expected = _one_process(inputs, causal, lengths)
            kept = real[:, None, :, None]
            for found, _ in run_ranks(4, lambda c: _shards(c, inputs, strategy, layout, causal, lengths)):  # noqa: B023
                _assert_equal([x * kept for x in found], [x * kept for x in expected])


def test_left_padding_is_hidden() -> None:
    q, k, v, _ = _inputs(4, 2, 16)
    start = torch.tensor([5, 0])
    mask = torch.ones(16, 16).tril().bool() & (torch.arange(16) >= start[:, None, None, None])
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    def work(ranks: Communicator) -> Tensor:
        parts = [shard_sequence(x, ranks, dim=2) for x in (q, k, v)]
        output = distributed_attention(*parts, group=ranks, kv_start=start)
        assert isinstance(output, Tensor)
        return unshard_sequence(output, ranks, dim=2)

    found = run_ranks(2, work)[0]
    torch.testing.assert_close(found[0, :, 5:], expected[0, :, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-5)
    assert not found[0, :, :5].any()


def test_positions_that_follow_no_layout() -> None:
    q, k, v, _ = _inputs(2, 2, 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def work(ranks: Communicator) -> Tensor:
        own = order.chunk(3)[ranks.rank]
        parts = [x[:, :, own] for x in (q, k, v)]
        output = distributed_attention(*parts, group=ranks, strategy="ring", positions=own)
        assert isinstance(output, Tensor)
        return torch.cat(ranks.all_gather(output), 2)[:, :, order.argsort()]

    torch.testing.assert_close(run_ranks(3, work)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_precision_travels_and_is_summed_in_float32(strategy: Strategy) -> None:
    inputs = _inputs(4, 4, 32, torch.bfloat16)
    expected = _one_process([x.float() for x in inputs], True)
    for found, received in run_ranks(4, lambda c: _shards(c, inputs, strategy, "zigzag", True)):
        assert found[0].dtype == torch.bfloat16
        torch.testing.assert_close(found[0].float(), expected[0], atol=0.02, rtol=0.02)
        assert received == communication_bytes(BATCH, 4, 4, 32, DIM, 4, 2)[strategy]


def test_gradcheck_in_float64() -> None:
    inputs = [x[:1, :, :, :3].double() for x in _inputs(2, 1, 4)[:3]]

    def run(*whole: Tensor) -> Tensor:
        output = distributed_attention(*whole, group=None, strategy="ring")
        assert isinstance(output, Tensor)
        return output

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])


def test_heads_that_ranks_do_not_divide() -> None:
    q, k, v, _ = _inputs(3, 3, 8)
    with pytest.raises(ParallelError, match="take 'ring'"):
        run_ranks(2, lambda c: distributed_attention(*(x[:, :, :4] for x in (q, k, v)), group=c, strategy="ulysses"))
    with pytest.raises(ParallelError, match="heads that divide"):
        distributed_attention(q, k[:, :2], v[:, :2])


def test_decoding_over_shards_of_any_length() -> None:
    q, k, v, _ = _inputs(4, 2, 20)
    new = q[:, :, :1]
    real = torch.rand(BATCH, 20, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = F.scaled_dot_product_attention(new, k, v, attn_mask=real[:, None, None], enable_gqa=True)
    cuts = [0, 3, 3, 17, 20]

    def work(ranks: Communicator) -> Tensor:
        part = slice(cuts[ranks.rank], cuts[ranks.rank + 1])
        return distributed_decode(new, k[:, :, part], v[:, :, part], group=ranks, kv_mask=real[:, part])

    for found in run_ranks(4, work):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tile", [1, 7, 64])
def test_keys_that_stream_from_a_mapped_file(tile: int, tmp_path: Path) -> None:
    q, k, v, _ = _inputs(4, 2, 40)
    mapped = []
    for name, x in (("k", k), ("v", v)):
        file = torch.from_file(str(tmp_path / name), shared=True, size=x.numel(), dtype=x.dtype).view(x.shape)
        mapped.append(file.copy_(x))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    found = streaming_attention(q[:, :, 30:], tiles(*mapped, tile), q_start=30)
    torch.testing.assert_close(found, expected[:, :, 30:], atol=1e-5, rtol=1e-5)
    everything = streaming_attention(q, tiles(k, v, tile), causal=False)
    whole = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(everything, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_lightning_attention_over_shards(ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 16, 3, 5, generator=generator, dtype=torch.float64) for _ in range(4)]
    slopes = torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)
    whole = [x.clone().requires_grad_() for x in inputs[:3]]
    output, _ = lightning_attention(*whole, slopes)  # type: ignore[misc]
    expected = [output.detach(), *torch.autograd.grad(output, whole, inputs[3])]

    def work(c: Communicator) -> list[Tensor]:
        *parts, gradient = (shard_sequence(x, c, "contiguous") for x in inputs)
        parts = [x.requires_grad_() for x in parts]
        own = distributed_lightning(*parts, slopes, group=c)
        grads = torch.autograd.grad(own, parts, gradient)
        return [unshard_sequence(x, c, "contiguous") for x in (own, *grads)]

    for found in run_ranks(ranks, work):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_an_error_of_one_rank_is_raised() -> None:
    def work(ranks: Communicator) -> None:
        if ranks.rank == 1:
            raise ParallelError("rank 1 says no")

    with pytest.raises(ParallelError, match="says no"):
        run_ranks(2, work)


def _process(rank: int, size: int, folder: str) -> None:
    """What each process of the test below does: every strategy, layout and mask, against one process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    ranks = ProcessCommunicator()
    lengths = torch.tensor([21, 13])
    for heads, kv_heads, length in ((4, 2, 24), (4, 4, 21)):
        inputs = _inputs(heads, kv_heads, length)
        limits = lengths if length == 21 else None
        if limits is not None:
            inputs[3] = inputs[3] * (torch.arange(length) < limits[:, None])[:, None, :, None]
        for causal in (True, False):
            expected = _one_process(inputs, causal, limits)
            for layout in LAYOUTS:
                for strategy in STRATEGIES:
                    found, received = _shards(ranks, inputs, strategy, layout, causal, limits)
                    if limits is not None:
                        real = (torch.arange(length) < limits[:, None])[:, None, :, None]
                        found, wanted = [x * real for x in found], [x * real for x in expected]
                    else:
                        wanted = expected
                        planned = communication_bytes(BATCH, heads, kv_heads, length, DIM, size, 4)
                        assert received == planned[strategy]
                    _assert_equal(found, wanted)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_gloo_processes_equal_one_process(size: int, tmp_path: Path) -> None:
    mp.spawn(_process, args=(size, str(tmp_path)), nprocs=size)
