"""Counting memory: weights, keys and values by their tensors, the rest by watching the allocator for one generation.

On a GPU the allocator keeps its own high-water mark. On a CPU every allocation and release of one pass is recorded and
summed, which gives the same number on every run; the resident size of the process does not, and stands beside it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor
from torch.autograd.profiler import profile as autograd_profile
from transformers import PretrainedConfig, PreTrainedModel

from farspan.engine.cache import cache_bytes
from farspan.engine.forward import Forward
from farspan.profiling.profile import MemorySplit
from farspan.profiling.timing import fresh_cache

__all__ = [
    "all_logits_bytes_per_token",
    "cache_bytes",
    "kv_bytes_per_token",
    "measure_memory",
    "peak_bytes",
    "weight_bytes",
]

SAMPLE_SECONDS = 0.005


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of parameters and buffers, memory that several of them share counted once."""
    storages = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def kv_bytes_per_token(config: PretrainedConfig, dtype_bytes: int | None = None) -> int:
    """Bytes that one more token adds to the cache of one row, once sliding windows are full.

    Layers of full attention count `2 * num_key_value_heads * head_dim` numbers each; sliding windows and recurrent
    states do not grow.

    Parameters
    ----------
    config : of the model
    dtype_bytes : bytes of a cached number; those of the configuration's dtype where left out
    """
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        sliding = getattr(text, "sliding_window", None) is not None
        kinds = ["sliding_attention" if sliding else "full_attention"] * text.num_hidden_layers
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if dtype_bytes is None:
        dtype_bytes = text.dtype.itemsize if isinstance(text.dtype, torch.dtype) else torch.float32.itemsize
    growing = sum(1 for kind in kinds if kind == "full_attention")
    return growing * 2 * int(heads) * int(head_dim) * dtype_bytes


def all_logits_bytes_per_token(vocabulary: int, hidden_size: int, dtype_bytes: int) -> int:
    """Bytes that one more prompt token costs where logits of all positions are kept, with their last hidden state.

    Source: arXiv 2507.12442, "activation memory" of its public tables, of which this is nearly all.
    """
    return dtype_bytes * (vocabulary + hidden_size)


def measure_memory(forward: Forward, ids: Tensor, *, keep: int) -> MemorySplit:
    """Run prompt and two tokens once and say where the memory went.

    Parameters
    ----------
    ids : Tensor [rows, length]
    keep : prompt positions that go through the head, 0 for all
    """
    measured: dict[str, int] = {}

    def one_pass() -> None:
        cache = fresh_cache(forward, len(ids), ids.shape[1] + 2)
        logits = forward(ids, cache, keep=keep)
        measured["logits"] = logits.numel() * logits.element_size()
        measured["cache"] = cache_bytes(cache)
        token = logits[:, -1].argmax(-1)
        del logits
        forward(token[:, None], cache)

    with _resident_peak() as resident:
        peak, reserved = _cuda_peak(ids.device, one_pass) if ids.device.type == "cuda" else (_cpu_peak(one_pass), None)
    weights = weight_bytes(forward.model)
    return MemorySplit(
        weights=weights,
        kv_cache=measured["cache"],
        logits=measured["logits"],
        activations_peak=max(0, peak - measured["cache"] - measured["logits"]),
        allocated_peak=weights + max(peak, measured["cache"] + measured["logits"]),
        reserved_peak=reserved,
        resident_peak=max(resident),
    )


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most memory that a call holds at once above what was held before, bytes."""

    def once() -> None:
        run()

    return _cuda_peak(device, once)[0] if device.type == "cuda" else _cpu_peak(once)


def _cuda_peak(device: torch.device, run: Callable[[], None]) -> tuple[int, int]:
    """Bytes allocated above what was there before, and bytes the allocator held."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before, torch.cuda.max_memory_reserved(device)


def _cpu_peak(run: Callable[[], None]) -> int:
    """Largest sum of allocations minus releases while running, bytes."""
    with _quiet_recorder(), autograd_profile(use_cpu=True, profile_memory=True) as recorded:
        run()
    live = peak = 0
    for event in recorded.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@contextmanager
def _quiet_recorder() -> Iterator[None]:
    # The recorder prints two lines each time it runs, unless this is set when it first does.
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def _resident_peak() -> Iterator[list[int]]:
    """Resident sizes of this process while inside, bytes; at least one."""
    process = psutil.Process()
    sizes = [process.memory_info().rss]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            sizes.append(process.memory_info().rss)

    thread = threading.Thread(target=sample, name="farspan-resident", daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()
        sizes.append(process.memory_info().rss)
