"""K-means over the keys of attention heads, all heads of a layer at once.

Clusters are found by direction: the caller normalises, this file knows vectors only. It neither reads a model nor
decides how many clusters there are.

Source: arXiv 2411.09688, section 4.1; seeding after arXiv 1203.6402 (several centres a round).
"""

from __future__ import annotations

import torch
from torch import Tensor

_SEEDING_ROUNDS = 32
_TILE = 1 << 24  # scores at once


def kmeans(vectors: Tensor, clusters: int, *, iterations: int = 50, seed: int = 0, tolerance: float = 1e-3) -> Tensor:
    """Cluster rows by squared distance to the mean of their cluster.

    Parameters
    ----------
    vectors : Tensor [heads, n, D], clustered head by head in float32
    clusters : clusters a head at most; fewer where a head has fewer distinct rows
    iterations : rounds of assignment at most; it ends earlier when fewer than `tolerance` of the labels change
    seed : of the drawing of the first centres

    Returns
    -------
    Tensor int64 [heads, n], labels from 0 without gaps in each head. Equal seeds give equal labels on one machine.
    """
    heads, count, _ = vectors.shape
    rows = vectors.detach().float()
    labels = torch.empty(heads, count, dtype=torch.int64, device=vectors.device)
    for head in range(heads):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + head)
        labels[head] = _one_head(rows[head], min(clusters, count), iterations, generator, tolerance)
    return labels


def inertia(vectors: Tensor, labels: Tensor) -> Tensor:
    """Sum of squared distances of rows [heads, n, D] to their cluster's mean: Tensor [heads]."""
    sums = []
    for rows, label in zip(vectors.float(), labels, strict=True):
        centres, _ = means(rows, label, int(label.max()) + 1)
        sums.append((rows - centres[label]).square().sum())
    return torch.stack(sums)


def means(rows: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Mean row and number of rows of every cluster: [clusters, D] and int64 [clusters]; 0 where a cluster is empty."""
    total = rows.new_zeros(clusters, rows.shape[1]).index_add_(0, labels, rows)
    counts = torch.bincount(labels, minlength=clusters)
    return total / counts.clamp(min=1)[:, None], counts


def _one_head(rows: Tensor, clusters: int, iterations: int, generator: torch.Generator, tolerance: float) -> Tensor:
    centres = _first_centres(rows, clusters, generator)
    norms = rows.square().sum(-1)
    labels, nearest = _assign(rows, centres)
    for _ in range(iterations):
        centres, counts = means(rows, labels, len(centres))
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            # a cluster that lost its rows starts anew at a row far from its centre
            far = (norms - nearest).topk(len(empty)).indices
            centres[empty] = rows[far]
        before = labels
        labels, nearest = _assign(rows, centres)
        if int((labels != before).sum()) <= tolerance * len(rows):
            break
    gapless: Tensor = torch.unique(labels, return_inverse=True)[1]
    return gapless


def _assign(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre of each row, and how much of the row's squared norm it explains."""
    half = centres.square().sum(-1) / 2
    step = max(1, _TILE // len(centres))
    best = [(part @ centres.T - half).max(-1) for part in torch.split(rows, step)]
    return torch.cat([one.indices for one in best]), 2 * torch.cat([one.values for one in best])


def _first_centres(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Rows drawn with probability proportional to their squared distance to the centres drawn so far.

    Several are drawn a round: one by one would be as many passes over the rows as there are clusters.
    """
    norms = rows.square().sum(-1)
    chosen = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    distance = _distance(rows, norms, rows[chosen])
    while len(chosen) < clusters:
        # what rounding leaves of a distance to itself must not be drawn
        distance = distance.masked_fill(distance <= 1e-6 * norms.max(), 0.0)
        far = int((distance > 0).sum())
        if far == 0:
            break
        number = min(max(1, clusters // _SEEDING_ROUNDS), clusters - len(chosen), far)
        drawn = torch.multinomial(distance.cpu().double(), number, generator=generator).to(rows.device)
        chosen = torch.cat([chosen, drawn])
        distance = torch.minimum(distance, _distance(rows, norms, rows[drawn]))
    return rows[chosen].clone()


def _distance(rows: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
    half = centres.square().sum(-1) / 2
    return (norms - 2 * (rows @ centres.T - half).amax(-1)).clamp(min=0)
