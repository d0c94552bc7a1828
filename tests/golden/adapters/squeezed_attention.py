"""Squeezed attention: thresholds from given clusters, lookups of one and two levels, and the attention over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.golden.compare import assert_close

if TYPE_CHECKING:
    from torch import Tensor

    from farspan.attention.lookup import Clusters

THRESHOLD_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-5


def clusters(given: dict[str, Any], keys: Tensor, labels: Tensor) -> Clusters:
    """The clusters a case describes, of keys [heads, n, D]."""
    import torch

    from farspan.attention.clustered_keys import clusters_of, with_coarse

    found = clusters_of(keys, labels, count=given["num_clusters"])
    return with_coarse(found, torch.tensor(given["l1_of_l2"])) if "l1_of_l2" in given else found


def thresholds(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention.lookup import calibrate_thresholds

    given, expected = case["input"], case["expected"]
    keys, labels = torch.tensor(given["keys"]), torch.tensor(given["labels"])
    window = given["observation_window"]
    layers = [clusters(given, some[:, : labels.shape[-1]], label) for some, label in zip(keys, labels, strict=True)]
    wide = given["num_clusters"]
    for layer, wanted in zip(layers, expected["centroids"], strict=True):
        assert_close(layer.centroids[:, :wide], wanted, rtol=THRESHOLD_TOLERANCE, atol=1e-5, path="centroids")
    wanted = dict(expected["thresholds"])
    assert keys.shape[2] == wanted.pop("shared_prefix_length", keys.shape[2])
    assert window == wanted.pop("observation_window", window)
    queries = list(torch.tensor(given["queries_obs_window"]))
    found = calibrate_thresholds(queries, layers, [float(quantile) for quantile in wanted])
    assert_close(found, {str(float(q)): x for q, x in wanted.items()}, rtol=THRESHOLD_TOLERANCE, path="thresholds")


def attention(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention.clustered_keys import ClusteredLayer
    from farspan.attention.lookup import squeeze_lookup
    from farspan.attention.squeezed import squeezed_attention

    given, expected = case["input"], case["expected"]
    query, keys, values, new_keys, new_values = (
        torch.tensor(given[name]) for name in ("query", "prefix_keys", "prefix_values", "new_keys", "new_values")
    )
    labels, window = torch.tensor(given["labels"]), given["observation_window"]
    found = clusters(given, keys[:, :-window], labels)
    coarse = given.get("threshold_l1", 0.0)
    looked = squeeze_lookup(query[None], found, given["threshold"], coarse_threshold=coarse)
    single = squeeze_lookup(query[None], found.flat(), given["threshold"])
    tolerance = {"rtol": THRESHOLD_TOLERANCE, "atol": 1e-6}
    assert_close(single.scores[0], expected["cluster_scores"], **tolerance, path="cluster_scores")
    if "l2_scores" in expected:
        assert_close(looked.scores[0], expected["l2_scores"], **tolerance, path="l2_scores")
    if "l1_scores" in expected:
        assert looked.coarse_scores is not None
        assert_close(looked.coarse_scores[0], expected["l1_scores"], **tolerance, path="l1_scores")
    kept = torch.cat([looked.keep[0].gather(-1, labels), torch.ones(len(labels), window, dtype=torch.bool)], -1)
    assert_close(kept.int(), expected["keep_prefix_tokens"], path="keep_prefix_tokens")
    output, _, cells = squeezed_attention(
        query[None],
        torch.cat([keys[:, -window:], new_keys], 1)[None],
        torch.cat([values[:, -window:], new_values], 1)[None],
        ClusteredLayer.of(keys, values, labels, found),
        given["threshold"],
        coarse_threshold=coarse,
        per_query_head=True,
    )
    assert_close(output[0], expected["output"], rtol=0.0, atol=OUTPUT_TOLERANCE, path="output")
    assert_close(cells, (kept[:, :-window].sum(-1) * query.shape[1]).double(), path="kept cells")


def squeezed(case: dict[str, Any]) -> None:
    (thresholds if "queries_obs_window" in case["input"] else attention)(case)


ADAPTERS = {"squeezed": squeezed, "calibrate_thresholds": thresholds, "squeeze_lookup": attention}
DEFAULT = "squeezed"
