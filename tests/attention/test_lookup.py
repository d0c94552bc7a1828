"""Lookup and calibration: probabilities against a softmax over all keys, thresholds, extreme keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import SqueezeError, calibrate_thresholds, cluster_keys, squeeze_lookup
from farspan.attention.clustered_keys import clusters_of, with_coarse
from farspan.attention.lookup import Clusters


def keys_of(heads: int, count: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(heads, count, dim, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_softmax_where_every_key_is_a_cluster() -> None:
    keys, query = keys_of(2, 30), keys_of(1, 2 * 2 * 3, seed=1).view(1, 4, 3, 8)
    labels = torch.arange(30).expand(2, 30)
    looked = squeeze_lookup(query, clusters_of(keys, labels), 0.01, scaling=0.4)
    exact = (query @ keys.repeat_interleave(2, dim=0).transpose(-1, -2) * 0.4).softmax(-1).mean(2)
    torch.testing.assert_close(looked.scores, exact)
    assert torch.equal(looked.keep, exact > 0.01)
    shared = squeeze_lookup(query, clusters_of(keys, labels), 0.01, scaling=0.4, per_query_head=False)
    torch.testing.assert_close(shared.scores, exact.view(1, 2, 2, 30).mean(2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), clusters=st.integers(2, 9), queries=st.integers(1, 4))
def test_probabilities_of_all_keys_sum_to_one(seed: int, clusters: int, queries: int) -> None:
    keys = keys_of(2, 40, seed=seed)
    labels = torch.randint(clusters, (2, 40), generator=torch.Generator().manual_seed(seed))
    found = clusters_of(keys, labels, count=clusters + 1)  # the last one is empty
    looked = squeeze_lookup(keys_of(4, queries, seed=seed + 1)[None], found, 1.0)
    sums = (looked.scores * found.counts.repeat_interleave(2, dim=0)).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert not looked.keep[..., -1].any()
    # nothing passes a threshold of 1, so the best cluster alone is read
    assert (looked.keep.sum(-1) == 1).all()
    assert torch.equal(looked.keep.int().argmax(-1), looked.scores.argmax(-1))


def test_threshold_zero_keeps_every_cluster_that_has_keys() -> None:
    keys = keys_of(2, 60)
    _, found = cluster_keys(keys, cluster_ratio=0.2, coarse_ratio=0.05)
    assert torch.equal(squeeze_lookup(keys_of(2, 1)[None], found, 0.0).keep[0], found.counts > 0)


def test_the_coarse_level_drops_and_the_fine_one_counts_what_is_left() -> None:
    keys = keys_of(1, 60)
    _, found = cluster_keys(keys, cluster_ratio=0.25, coarse_ratio=0.08)
    assert found.coarse is not None
    assert found.coarse_of is not None
    assert int(found.coarse.counts.sum()) == 60
    query = keys_of(1, 2, seed=3)[None] * 2
    top = squeeze_lookup(query, found.coarse, 0.0).scores[0, 0]
    limit = float(top.sort().values[-2:].mean())
    looked = squeeze_lookup(query, found, 0.0, coarse_threshold=limit)
    survivors = (top > limit)[found.coarse_of[0]]
    assert torch.equal(looked.keep[0, 0], survivors & (found.counts[0] > 0))
    assert (looked.scores[0, 0] * found.counts[0]).sum() == pytest.approx(1.0, abs=1e-5)
    assert not looked.scores[0, 0][~survivors].any()


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("per_query_head", [True, False])
def test_calibrated_thresholds_keep_the_wanted_share(sparsity: float, per_query_head: bool) -> None:
    count = 400
    queries = [keys_of(4, 16, seed=10 + layer) for layer in range(2)]
    layers = [cluster_keys(keys_of(2, count, seed=layer), cluster_ratio=0.25)[1] for layer in range(2)]
    limit = calibrate_thresholds(queries, layers, [sparsity], per_query_head=per_query_head)[str(sparsity)]
    kept = total = 0
    largest = 0
    for query, found in zip(queries, layers, strict=True):
        looked = squeeze_lookup(query[None], found, limit, per_query_head=per_query_head)
        sizes = found.counts.repeat_interleave(looked.keep.shape[1] // 2, dim=0)
        kept += int((sizes * looked.keep[0]).sum())
        total += int(sizes.sum())
        largest = max(largest, int(sizes.max()))
    assert kept / total == pytest.approx(1 - sparsity, abs=(largest + 1) / total)


def test_similar_queries_keep_about_as_much() -> None:
    keys = keys_of(2, 800, 16)
    _, found = cluster_keys(keys)
    common = keys_of(4, 1, 16, seed=5)
    near, later = (common + 0.5 * keys_of(4, 16, 16, seed=seed) for seed in (6, 7))
    limit = calibrate_thresholds([near], [found], [0.9])["0.9"]
    looked = squeeze_lookup(later[None], found, limit)
    share = float((looked.keep[0] * found.counts.repeat_interleave(2, dim=0)).sum() / (4 * 800))
    assert 0.05 <= share <= 0.2


def test_a_key_of_enormous_norm_is_kept_and_everything_stays_finite() -> None:
    keys = keys_of(1, 200)
    keys[0, 7] *= 1e3
    labels, found = cluster_keys(keys, cluster_ratio=0.1)
    query = keys[:, 7:8].expand(1, 5, 8) * 10
    limit = calibrate_thresholds([query], [found], [0.5, 0.9])
    assert all(0 <= value < 1 for value in limit.values())
    looked = squeeze_lookup(query[None], found, limit["0.9"])
    assert looked.scores.isfinite().all()
    assert looked.keep[0, 0, labels[0, 7]]


def test_a_common_part_of_all_keys_does_not_gather_them_in_one_cluster() -> None:
    keys = keys_of(1, 500) + 30 * keys_of(1, 1, seed=9)
    plain, centred = (cluster_keys(keys, centred=centred)[1].counts for centred in (False, True))
    assert int(centred.max()) < 150
    assert int(centred.max()) <= int(plain.max())


def test_the_correction_raises_estimates_of_wide_clusters() -> None:
    keys = torch.cat([torch.zeros(1, 50, 4), 2 * keys_of(1, 50, 4)], 1)
    labels = (torch.arange(100) >= 50).long()[None]
    narrow, wide = clusters_of(keys, labels), clusters_of(keys, labels, spread=True)
    query = keys_of(1, 64, 4, seed=2)[None]
    exact = (query @ keys.transpose(-1, -2) / 2).softmax(-1)[..., 50:].sum(-1).mean()
    estimates = [float(squeeze_lookup(query, found, 0.0).scores[0, 0, 1] * 50) for found in (narrow, wide)]
    assert estimates[0] < estimates[1]
    assert abs(estimates[1] - exact) < abs(estimates[0] - exact)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -0.1])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    found = clusters_of(keys_of(1, 10), torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(SqueezeError, match="calibrate"):
        squeeze_lookup(keys_of(1, 1)[None], found, threshold)


def test_keys_that_are_not_finite_are_refused_in_calibration() -> None:
    broken = Clusters(torch.full((1, 2, 4), torch.nan), torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(SqueezeError, match="finite"):
        calibrate_thresholds([keys_of(1, 3, 4)], [broken])


def test_coarse_centroids_are_plain_means_of_fine_ones() -> None:
    fine = Clusters(torch.tensor([[[0.0], [2.0], [7.0]]]), torch.tensor([[10, 1, 3]]))
    coarse = with_coarse(fine, torch.tensor([[0, 0, 1]])).coarse
    assert coarse is not None
    assert coarse.centroids.tolist() == [[[1.0], [7.0]]]
    assert coarse.counts.tolist() == [[11, 3]]
