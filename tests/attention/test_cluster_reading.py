"""The C program of clustered reading: equal to torch on the same clusters, and absent where it cannot be built."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farspan.attention import cluster_reading
from farspan.attention.cluster_reading import MOST_ROWS, look_up, read_clusters
from farspan.attention.clustered_keys import ClusteredLayer, clusters_of
from farspan.attention.executors import building
from farspan.attention.lookup import squeeze_lookup
from farspan.attention.squeezed import _over_collected

KV_HEADS, KEYS = 2, 300


def problem(group: int, length: int, dim: int = 16, value_dim: int = 24) -> tuple[Tensor, ClusteredLayer]:
    """Queries, and keys in 40 clusters of which one is empty and one holds a third of all."""
    generator = torch.Generator().manual_seed(group * 10 + length)
    keys = torch.randn(KV_HEADS, KEYS, dim, generator=generator)
    values = torch.randn(KV_HEADS, KEYS, value_dim, generator=generator)
    labels = torch.randint(1, 40, (KV_HEADS, KEYS), generator=generator)
    labels[:, : KEYS // 3] = 7
    query = torch.randn(1, KV_HEADS * group, length, dim, generator=generator)
    return query * 2, ClusteredLayer.of(keys, values, labels, clusters_of(keys, labels, count=40))


built = pytest.mark.skipif(cluster_reading._library() is None, reason="no C compiler")


@built
@pytest.mark.parametrize(("group", "length"), [(1, 1), (4, 1), (2, 3), (1, MOST_ROWS)])
@pytest.mark.parametrize("per_query_head", [False, True])
def test_equals_torch(group: int, length: int, per_query_head: bool) -> None:
    query, layer = problem(group, length)
    sets = query.shape[1] if per_query_head else KV_HEADS
    for threshold in (0.0, 0.002, 0.9):
        found = look_up(query, layer, threshold, 0.3, sets)
        expected = squeeze_lookup(query, layer.clusters, threshold, scaling=0.3, per_query_head=per_query_head)
        assert found is not None
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-8)
        assert torch.equal(found.keep, expected.keep)
        read = read_clusters(query, layer, expected.keep[0], 0.3)
        assert read is not None
        for mine, other in zip(read, _over_collected(query, layer, expected.keep[0], 0.3), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@built
def test_threads_share_the_heads() -> None:
    query, layer = problem(2, 1)
    keep = torch.rand(KV_HEADS, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    alone, threads = read_clusters(query, layer, keep, None), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        shared = read_clusters(query, layer, keep, None)
    finally:
        torch.set_num_threads(threads)
    assert alone is not None
    assert shared is not None
    assert torch.equal(alone[0], shared[0])
    assert torch.equal(alone[1], shared[1])


@built
def test_a_head_that_keeps_nothing_and_a_key_of_enormous_norm() -> None:
    query, layer = problem(1, 1)
    nothing = torch.zeros(KV_HEADS, 40, dtype=torch.bool)
    read = read_clusters(query, layer, nothing, None)
    assert read is not None
    assert torch.equal(read[0], torch.zeros_like(read[0]))
    assert bool((read[1] == -torch.inf).all())
    looked = look_up(query * 1e4, layer, 0.1, None, KV_HEADS)
    assert looked is not None
    assert bool(looked.scores.isfinite().all())
    assert bool(looked.keep.any(-1).all())


def test_what_does_not_fit_is_left_to_torch() -> None:
    query, layer = problem(1, MOST_ROWS + 1)
    keep = torch.ones(KV_HEADS, 40, dtype=torch.bool)
    assert read_clusters(query, layer, keep, None) is None
    assert look_up(query, layer, 0.1, None, KV_HEADS) is None
    assert read_clusters(query[:, :, :1].double(), layer, keep, None) is None
    odd, narrow = problem(1, 1, dim=12)
    assert read_clusters(odd, narrow, keep, None) is None


def test_without_a_compiler_there_is_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    query, layer = problem(1, 1)
    cluster_reading._library.cache_clear()
    try:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        assert look_up(query, layer, 0.1, None, KV_HEADS) is None
        cluster_reading._library.cache_clear()
        # a compiler that complains
        monkeypatch.setattr(shutil, "which", lambda name: "/bin/false" if Path("/bin/false").exists() else None)
        monkeypatch.setattr(building, "cache_folder", lambda: tmp_path)
        assert look_up(query, layer, 0.1, None, KV_HEADS) is None
    finally:
        cluster_reading._library.cache_clear()
