"""K-means over heads: as good as another implementation, deterministic, and steady on degenerate input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2

from farspan.attention.clusters import inertia, kmeans, means


def unit_rows(heads: int, count: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(heads, count, dim, generator=generator), dim=-1)


def test_as_good_as_another_implementation() -> None:
    rows = unit_rows(1, 2000, 64)
    ours = float(inertia(rows, kmeans(rows, 100)))
    theirs = []
    for seed in range(2):
        centres, labels = kmeans2(rows[0].numpy().astype(np.float64), 100, iter=60, minit="++", seed=seed)
        theirs.append(float(np.square(rows[0].numpy() - centres[labels]).sum()))
    assert ours <= 1.02 * min(theirs)


def test_separated_clusters_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2, 12, 16, generator=generator) * 20
    truth = torch.arange(12).repeat_interleave(15)
    rows = centres[:, truth] + torch.randn(2, 180, 16, generator=generator)
    for label in kmeans(rows, 12):
        assert len({(int(a), int(b)) for a, b in zip(label, truth, strict=True)}) == 12


def test_equal_seeds_give_equal_labels_and_heads_do_not_mix() -> None:
    rows = unit_rows(3, 400, 8)
    labels = kmeans(rows, 20, seed=4)
    assert torch.equal(labels, kmeans(rows, 20, seed=4))
    assert not torch.equal(labels, kmeans(rows, 20, seed=5))
    assert torch.equal(labels[:1], kmeans(rows[:1], 20, seed=4))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), distinct=st.integers(1, 5), clusters=st.integers(1, 12))
def test_labels_have_no_gaps_and_duplicates_do_not_crash(count: int, distinct: int, clusters: int) -> None:
    rows = unit_rows(1, distinct, 4)[:, torch.arange(count) % distinct]
    labels = kmeans(rows, clusters)[0]
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    assert int(labels.max()) < min(clusters, count, distinct)


def test_more_clusters_never_hurt() -> None:
    rows = unit_rows(1, 600, 8)
    values = [float(inertia(rows, kmeans(rows, clusters))) for clusters in (1, 10, 60, 600)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0.0, abs=1e-3)


def test_means_of_empty_clusters_are_zero() -> None:
    rows = torch.tensor([[1.0, 3.0], [3.0, 5.0]])
    centres, counts = means(rows, torch.tensor([2, 2]), 4)
    assert counts.tolist() == [0, 0, 2, 0]
    assert centres[2].tolist() == [2.0, 4.0]
    assert not centres[[0, 1, 3]].any()
