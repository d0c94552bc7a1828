"""Timing one generation: the prompt once, then token by token, every token's moment kept.

Time to first token and time per token come from the same generation; nothing is subtracted between runs, and nothing
else is measured meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicSlidingWindowLayer

from farspan.engine.cache import SlotCache
from farspan.engine.forward import Forward

T = TypeVar("T")


class Latency(NamedTuple):
    """Latencies of one generation. Times in seconds, throughputs in tokens a second.

    tpot_published : decode time over all output tokens, as published tables have it; the first token counts although
        the prompt's pass made it
    tpot : decode time over the tokens that it made
    """

    ttft_s: float
    decode_s: float
    tpot_published_s: float
    tpot_s: float
    throughput_tok_s: float
    decode_throughput_tok_s: float


def latency_metrics(input_tokens: int, output_tokens: int, prefill_s: float, total_s: float) -> Latency:
    """Latencies of a generation of which only the prompt's and the whole time are known.

    Source: arXiv 2507.12442, section 3.

    Parameters
    ----------
    input_tokens, output_tokens : of one row; at least two output tokens
    prefill_s, total_s : seconds to the first and to the last token
    """
    decode = total_s - prefill_s
    return Latency(
        ttft_s=prefill_s,
        decode_s=decode,
        tpot_published_s=decode / output_tokens,
        tpot_s=decode / (output_tokens - 1),
        throughput_tok_s=(input_tokens + output_tokens) / total_s,
        decode_throughput_tok_s=output_tokens / decode,
    )


def fresh_cache(forward: Forward, rows: int, capacity: int) -> Cache:
    """An empty cache that takes the room the model's own would take: sliding windows keep their window only."""
    layers = DynamicCache(config=forward.config).layers
    windows = any(isinstance(layer, DynamicSlidingWindowLayer) for layer in layers)
    if SlotCache.fits(forward.config) and forward.grows_evenly and not windows:
        return SlotCache(forward.config, rows, capacity)
    return forward.fresh_cache()


def token_times(forward: Forward, ids: Tensor, new_tokens: int, *, keep: int) -> list[float]:
    """Seconds from the start to each of `new_tokens` tokens, taken greedily whatever they are.

    Parameters
    ----------
    ids : Tensor [rows, length]
    keep : prompt positions that go through the head, 0 for all
    """
    cache = fresh_cache(forward, len(ids), ids.shape[1] + new_tokens)
    moments = []
    _wait(ids.device)
    start = time.perf_counter()
    token = forward(ids, cache, keep=keep)[:, -1].argmax(-1)
    _wait(ids.device)
    moments.append(time.perf_counter() - start)
    for _ in range(new_tokens - 1):
        token = forward(token[:, None], cache)[:, -1].argmax(-1)
        _wait(ids.device)
        moments.append(time.perf_counter() - start)
    return moments


def clocked(run: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds of one call, the process's own on a CPU so that other processes do not count, and what it gave."""
    _wait(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    result = run()
    _wait(device)
    return clock() - start, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
