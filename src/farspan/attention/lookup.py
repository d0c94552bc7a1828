"""Looking clusters of keys up by their centroids: estimated attention, and thresholds on it.

The centroid stands for every key of its cluster, so a query's softmax over all keys can be estimated from centroids
and sizes alone. A cluster is read if its estimate passes a threshold, and one threshold serves all heads of a model,
so busy heads read more than idle ones. Nothing here knows models, caches or files.

Scores are softmax probabilities in logarithms with the largest subtracted: keys of enormous norm give finite numbers.

Source: arXiv 2411.09688, sections 4.1 to 4.3 and appendix on grouped heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farspan.errors import FarspanError


class SqueezeError(FarspanError):
    """A clustered context that cannot be built, read or used as asked."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """The clusters of one layer's keys; heads with fewer clusters are filled up with empty ones, count 0.

    centroids : Tensor float32 [Hkv, K, D], means of the keys
    counts : Tensor int64 [Hkv, K], keys in each
    coarse_of : Tensor int64 [Hkv, K] or None, the coarse cluster of each
    coarse : Clusters or None, the coarse ones; their counts are keys too
    spread : Tensor float32 [Hkv, K] or None, variance of the keys a dimension, corrects the estimate upwards
    """

    centroids: Tensor
    counts: Tensor
    coarse_of: Tensor | None = None
    coarse: Clusters | None = None
    spread: Tensor | None = None

    def to(self, device: torch.device) -> Clusters:
        """The same on another device."""
        moved = {
            name: None if tensor is None else tensor.to(device)
            for name, tensor in vars(self).items()
            if name != "coarse"
        }
        return Clusters(**moved, coarse=None if self.coarse is None else self.coarse.to(device))  # type: ignore[arg-type]

    def flat(self) -> Clusters:
        """Without the coarse level."""
        return replace(self, coarse=None, coarse_of=None)


@dataclass(frozen=True, eq=False)
class Lookup:
    """What a lookup found.

    scores : Tensor float32 [B, H, K], estimated attention probability of one key of each cluster; 0 where the coarse
        level dropped it
    keep : Tensor bool [B, H, K]
    coarse_scores : Tensor float32 [B, H, K1] or None
    """

    scores: Tensor
    keep: Tensor
    coarse_scores: Tensor | None = None


def squeeze_lookup(
    query: Tensor,
    clusters: Clusters,
    threshold: float,
    *,
    coarse_threshold: float = 0.0,
    scaling: float | None = None,
    per_query_head: bool = True,
) -> Lookup:
    """Which clusters these queries read; one set for all of them.

    Parameters
    ----------
    query : Tensor [B, Hq, Lq, D], rotated
    threshold, coarse_threshold : probabilities of one key above which a cluster is read; 0 reads everything
    per_query_head : a set for each query head, otherwise one for the heads of a group

    Returns
    -------
    Lookup with H = Hq or Hkv. The best cluster of a head is always read.

    Raises
    ------
    SqueezeError : a threshold is not a finite number of at least 0.
    """
    for value in (threshold, coarse_threshold):
        if not 0.0 <= value < float("inf"):
            raise SqueezeError(f"threshold {value} is no finite probability; calibrate the context again")
    logits = centroid_logits(query, clusters, scaling)
    heads = query.shape[1] if per_query_head else clusters.counts.shape[0]
    if clusters.coarse is None or clusters.coarse_of is None:
        scores = _mean_over_queries(key_probabilities(logits, clusters.counts), heads)
        return Lookup(scores, _keep(scores, threshold, clusters.counts))
    top = clusters.coarse
    coarse_scores = _mean_over_queries(key_probabilities(centroid_logits(query, top, scaling), top.counts), heads)
    coarse_keep = _keep(coarse_scores, coarse_threshold, top.counts)
    of = _per_head(clusters.coarse_of, heads).expand(len(query), -1, -1)
    alive = coarse_keep.gather(-1, of)
    # the normaliser of the fine level counts what the coarse level left
    wide = alive.repeat_interleave(query.shape[1] // heads, dim=1)[:, :, None]
    scores = _mean_over_queries(key_probabilities(logits, clusters.counts, wide), heads)
    return Lookup(scores, _keep(scores, threshold, clusters.counts) & alive, coarse_scores)


def centroid_logits(query: Tensor, clusters: Clusters, scaling: float | None = None) -> Tensor:
    """Estimated scores of the keys of each cluster: Tensor float32 [B, Hq, Lq, K]."""
    batch, heads, length, dim = query.shape
    kv_heads = clusters.centroids.shape[0]
    scale = dim**-0.5 if scaling is None else scaling
    rows = query.float().reshape(batch, kv_heads, -1, dim)
    logits = rows @ clusters.centroids.float().transpose(-1, -2) * scale
    if clusters.spread is not None:
        # the mean of exponentials exceeds the exponential of the mean by half the variance of the scores
        logits = logits + rows.square().sum(-1, keepdim=True) * clusters.spread[:, None] * (0.5 * scale**2)
    return logits.reshape(batch, heads, length, -1)


def key_probabilities(logits: Tensor, counts: Tensor, alive: Tensor | None = None) -> Tensor:
    """Probability of one key of each cluster: Tensor float32 [B, Hq, Lq, K]; 0 for empty and dead clusters.

    logits : Tensor [B, Hq, Lq, K]; counts : Tensor int64 [Hkv, K]
    alive : Tensor bool [B, Hq, 1, K] or None, clusters that count
    """
    sizes = _per_head(counts, logits.shape[1])[:, :, None]
    present = sizes > 0 if alive is None else (sizes > 0) & alive
    logits = logits.masked_fill(~present, -torch.inf)
    total = (logits + sizes.clamp(min=1).log()).logsumexp(-1, keepdim=True)
    return (logits - total).exp()


def calibrate_thresholds(
    queries: Sequence[Tensor],
    clusters: Sequence[Clusters],
    quantiles: Iterable[float] = (0.5, 0.7, 0.8, 0.9),
    *,
    scaling: Sequence[float] | float | None = None,
    per_query_head: bool = True,
    coarse_threshold: float | None = None,
) -> dict[str, float]:
    """Thresholds that drop the wanted shares of keys for these queries, over all layers and heads together.

    Parameters
    ----------
    queries : one Tensor [Hq, W, D] a layer, rotated queries of the end of the context
    clusters : one a layer
    quantiles : shares of keys to drop
    coarse_threshold : where given, scores are those left after the coarse level, as they are when it is used; by
        default the coarse level is not consulted, as published

    Returns
    -------
    Threshold by quantile, the quantile as text. Quantiles between two keys are interpolated.

    Raises
    ------
    SqueezeError : a score is not finite.
    """
    scores, weights = [], []
    for index, (query, layer) in enumerate(zip(queries, clusters, strict=True)):
        scale = scaling if scaling is None or isinstance(scaling, float) else scaling[index]
        looked = squeeze_lookup(
            query[None],
            layer.flat() if coarse_threshold is None else layer,
            0.0,
            coarse_threshold=coarse_threshold or 0.0,
            scaling=scale,
            per_query_head=per_query_head,
        )
        scores.append(looked.scores.flatten())
        weights.append(_per_head(layer.counts, looked.scores.shape[1]).flatten())
    values, order = torch.cat(scores).double().cpu().sort()
    if not bool(values.isfinite().all()):
        raise SqueezeError("estimated attention is not finite; check the model's keys for infinities")
    upto = torch.cat(weights).cpu()[order].cumsum(0)
    return {str(quantile): _quantile(values, upto, quantile) for quantile in quantiles}


def _quantile(values: Tensor, upto: Tensor, quantile: float) -> float:
    """Quantile of values that stand for several keys each, `upto` of them up to each value."""
    place = quantile * (int(upto[-1]) - 1)
    low = int(place)
    high = min(low + 1, int(upto[-1]) - 1)
    first, second = (float(values[torch.searchsorted(upto, index, right=True)]) for index in (low, high))
    return first + (place - low) * (second - first)


def _per_head(per_kv_head: Tensor, heads: int) -> Tensor:
    """[Hkv, K] -> [1, H, K]; the query heads of a group are neighbours."""
    groups = heads // per_kv_head.shape[0]
    return (per_kv_head if groups == 1 else per_kv_head.repeat_interleave(groups, dim=0))[None]


def _mean_over_queries(probabilities: Tensor, heads: int) -> Tensor:
    batch, query_heads, length, count = probabilities.shape
    return probabilities.reshape(batch, heads, query_heads // heads * length, count).mean(2)


def _keep(scores: Tensor, threshold: float, counts: Tensor) -> Tensor:
    present = _per_head(counts, scores.shape[1]) > 0
    if threshold == 0.0:
        return present.expand(scores.shape)
    best = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.argmax(-1, keepdim=True), True)
    return ((scores > threshold) | best) & present
