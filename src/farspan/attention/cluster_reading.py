"""Looking up and reading clusters for a few queries by a small C program, on a CPU.

A cluster's keys and values lie in a row and are read where they lie: nothing is collected first, which would cost as
much again. It takes float32 and few queries; where it cannot work, callers look up, collect and attend with torch,
which is also what tests compare it with. The program is built once with the machine's own compiler and lies in the
cache folder under a name made of source, compiler and processor.

Source: arXiv 2411.09688, section 4.3: kept keys are loaded once, at about the speed of memory.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from farspan.attention.clustered_keys import RUN, ClusteredLayer
from farspan.attention.executors.building import BuildFailed, program
from farspan.attention.lookup import Lookup

LANES = 8
# more queries than this make matrices that a matrix library multiplies faster
MOST_ROWS = 8
_FLAGS = ("-ffp-contract=fast",)


def look_up(query: Tensor, layer: ClusteredLayer, threshold: float, scaling: float | None, heads: int) -> Lookup | None:
    """As `squeeze_lookup`, for one level of clusters.

    query : Tensor [1, Hq, Lq, D]; heads : sets of clusters, the KV heads or the query heads

    Returns
    -------
    None where the program does not fit the call or cannot be built.
    """
    clusters = layer.clusters
    kv_heads, count, dim = clusters.centroids.shape
    rows = query.shape[1] // heads * query.shape[2]
    if clusters.coarse is not None or clusters.spread is not None or not 0.0 <= threshold < float("inf"):
        return None
    if not _fits(query, clusters.centroids, rows) or (loaded := _library()) is None:
        return None
    query = query.contiguous()
    scores, keep = query.new_empty(1, heads, count), query.new_empty(1, heads, count, dtype=torch.bool)
    tables = (query, clusters.centroids, layer.log_counts, scores, keep)
    sizes = (0, heads, heads // kv_heads, rows, count, dim)
    scale = dim**-0.5 if scaling is None else scaling
    failed = loaded.farspan_look_up(*(tensor.data_ptr() for tensor in tables), *sizes, scale, threshold)
    return None if failed else Lookup(scores, keep)


def read_clusters(
    query: Tensor, layer: ClusteredLayer, keep: Tensor, scaling: float | None
) -> tuple[Tensor, Tensor] | None:
    """Attention over kept clusters, read in place.

    Parameters
    ----------
    query : Tensor [1, Hq, Lq, D]
    keep : Tensor bool [H, K], H the KV heads or the query heads

    Returns
    -------
    (output [1, Hq, Lq, Dv], logsumexp [1, Hq, Lq]), or None where the program does not fit the call or cannot be built.
    """
    units, clusters = keep.shape
    heads, length, dim = query.shape[1:]
    rows, value_dim = heads // units * length, layer.table.shape[1] // RUN - dim
    if not _fits(query, layer.table, rows) or value_dim % LANES or (loaded := _library()) is None:
        return None
    query, keep = query.contiguous(), keep.contiguous()
    output, lse = query.new_empty(1, heads, length, value_dim), query.new_empty(1, heads, length)
    tables = (query, keep, layer.first, layer.runs, layer.table, layer.bias, output, lse)
    places = [tensor.data_ptr() for tensor in tables]
    scale = dim**-0.5 if scaling is None else scaling

    def work(begin: int, end: int) -> int:
        sizes = (begin, end, units // len(layer.first), rows, clusters, dim, value_dim)
        return int(loaded.farspan_read_clusters(*places, *sizes, scale))

    threads = min(torch.get_num_threads(), units)
    if threads == 1:
        failed = work(0, units)
    else:
        borders = [units * part // threads for part in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            failed = max(pool.map(work, borders[:-1], borders[1:]))
    return None if failed else (output, lse)


def _fits(query: Tensor, table: Tensor, rows: int) -> bool:
    plain = query.device.type == "cpu" and query.dtype == table.dtype == torch.float32
    return plain and table.is_contiguous() and rows <= MOST_ROWS and query.shape[-1] % LANES == 0


@cache
def _library() -> ctypes.CDLL | None:
    """The built program, from the cache folder or compiled now; None without a compiler that can."""
    source = files("farspan.attention").joinpath("cluster_reading.c").read_bytes()
    try:
        loaded = program("clusters", source, _FLAGS)
        functions = loaded.farspan_read_clusters, loaded.farspan_look_up
    except (BuildFailed, AttributeError):
        return None
    place, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    functions[0].argtypes = [*[place] * 8, *[whole] * 7, number]
    functions[1].argtypes = [*[place] * 5, *[whole] * 6, number, number]
    for function in functions:
        function.restype = ctypes.c_int
    return loaded
