"""Graphs, walks on them, and measures of how well points in space, or predicted next nodes, follow a graph.

Plain functions of arrays: adjacency is an int array [n, n], symmetric with a zero diagonal. No model and no words are
here.

Source: arXiv 2501.00070, sections 2 to 4; normalised energy, alignment and critical context are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farspan.errors import FarspanError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LEAST_GAIN = 0.2
ROUNDING = 1e-20
"""Part of the squared error by which a bend must improve on a straight line to be one."""
SAME_EIGENVALUE = 1e-9
COLLAPSED = 1e-12


class GraphError(FarspanError):
    """A graph that is none, or that cannot be walked."""


@dataclass(frozen=True)
class Critical:
    """The bend of a curve over context.

    context : where it bends
    sse : squared error of the two lines
    slope_before, slope_after : per unit of ln context
    straight_sse : squared error of one line
    """

    context: float
    sse: float
    slope_before: float
    slope_after: float
    straight_sse: float

    @property
    def found(self) -> bool:
        """Whether two lines are that much better than one, beyond rounding, and the second one rises."""
        worth = self.straight_sse > ROUNDING and self.sse <= (1 - LEAST_GAIN) * self.straight_sse
        return self.slope_after > 0 and worth


def grid_graph(rows: int, cols: int) -> IntArray:
    """A rectangle; neighbours are those beside, above and below."""
    return _lattice(rows, cols, lambda row, col: True)


def hex_graph(rows: int, cols: int) -> IntArray:
    """A honeycomb laid like bricks: neighbours beside, and below where row + column is even."""
    return _lattice(rows, cols, lambda row, col: (row + col) % 2 == 0)


def _lattice(rows: int, cols: int, down: object) -> IntArray:
    if rows < 1 or cols < 1:
        raise GraphError(f"a graph needs at least one row and one column, not {rows} x {cols}")
    assert callable(down)
    adjacency = np.zeros((rows * cols, rows * cols), dtype=np.int64)
    for row in range(rows):
        for col in range(cols):
            node = row * cols + col
            others = [node + 1] if col + 1 < cols else []
            if row + 1 < rows and down(row, col):
                others.append(node + cols)
            for other in others:
                adjacency[node, other] = adjacency[other, node] = 1
    return adjacency


def ring_graph(n: int) -> IntArray:
    """A closed ring of at least three nodes."""
    if n < 3:
        raise GraphError(f"a ring needs at least three nodes, not {n}")
    nodes = np.arange(n)
    adjacency = np.zeros((n, n), dtype=np.int64)
    adjacency[nodes, (nodes + 1) % n] = adjacency[(nodes + 1) % n, nodes] = 1
    return adjacency


def parse_graph(text: str) -> IntArray:
    """A graph from `grid:4x4`, `hex:3x4` or `ring:8`.

    Raises
    ------
    GraphError : anything else, or a graph that falls into pieces.
    """
    if match := re.fullmatch(r"(grid|hex):(\d+)x(\d+)", text):
        made = (grid_graph if match[1] == "grid" else hex_graph)(int(match[2]), int(match[3]))
    elif match := re.fullmatch(r"ring:(\d+)", text):
        made = ring_graph(int(match[1]))
    else:
        raise GraphError(f"'{text}' is no graph; write grid:4x4, hex:3x4 or ring:8")
    return checked_graph(made)


def checked_graph(adjacency: ArrayLike) -> IntArray:
    """The graph as an array.

    Raises
    ------
    GraphError : not square, not symmetric, neighbours of themselves, or not connected.
    """
    graph = np.asarray(adjacency, dtype=np.int64)
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or len(graph) < 2:
        raise GraphError(f"adjacency is a square array of two or more nodes, not of shape {graph.shape}")
    if not np.isin(graph, (0, 1)).all() or (graph != graph.T).any() or graph.diagonal().any():
        raise GraphError("adjacency holds 0 and 1, is symmetric and has a zero diagonal")
    seen, waiting = {0}, [0]
    while waiting:
        for other in np.flatnonzero(graph[waiting.pop()]).tolist():
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    if len(seen) < len(graph):
        raise GraphError(f"only {len(seen)} of {len(graph)} nodes can be reached from the first; connect the graph")
    return graph


def random_walk(adjacency: ArrayLike, length: int, seed: int, start: int | None = None) -> IntArray:
    """`length` nodes, each a uniformly drawn neighbour of the one before; a longer walk starts with the shorter one.

    start : the first node, drawn if left out
    """
    neighbours = [np.flatnonzero(row).tolist() for row in checked_graph(adjacency)]
    rng = Random(seed)
    first = int(rng.random() * len(neighbours))
    node = first if start is None else start
    walk = [node]
    for _ in range(length - 1):
        around = neighbours[node]
        node = around[int(rng.random() * len(around))]
        walk.append(node)
    return np.array(walk[:length], dtype=np.int64)


def neighbour_pairs(adjacency: ArrayLike, n_pairs: int, seed: int) -> IntArray:
    """Nodes [n_pairs, 2]: a uniformly drawn node and a uniformly drawn neighbour of it, every pair apart."""
    neighbours = [np.flatnonzero(row).tolist() for row in checked_graph(adjacency)]
    rng = Random(seed)
    pairs = []
    for _ in range(n_pairs):
        node = int(rng.random() * len(neighbours))
        around = neighbours[node]
        pairs.append((node, around[int(rng.random() * len(around))]))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


# -- geometry ----------------------------------------------------------------------------------------------------------


def dirichlet_energy(points: ArrayLike, adjacency: ArrayLike) -> float:
    """Sum of squared distances over ordered pairs of neighbours, so that every edge counts twice.

    points : [n, d], one a node
    """
    x, graph = np.asarray(points, dtype=np.float64), np.asarray(adjacency)
    first, second = np.nonzero(graph)
    return float(((x[first] - x[second]) ** 2).sum())


def normalized_energy(points: ArrayLike, adjacency: ArrayLike) -> float | None:
    """Mean squared distance of neighbours over that of all pairs, 1 for unrelated places; None where all are one."""
    x, graph = np.asarray(points, dtype=np.float64), np.asarray(adjacency)
    n = len(x)
    centred = x - x.mean(axis=0)
    # Over all ordered pairs the squared distances sum to 2 n times the squared distances from the mean.
    spread = 2 * n * float((centred**2).sum()) / (n * (n - 1))
    if spread <= COLLAPSED:
        return None
    return dirichlet_energy(x, graph) / float(graph.sum()) / spread


def pca(points: ArrayLike, k: int = 2) -> tuple[FloatArray, FloatArray]:
    """Places on the first `k` principal components [n, k], and the shares of the variance they explain [k]."""
    x = np.asarray(points, dtype=np.float64)
    left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    total = float((values**2).sum())
    shares = values[:k] ** 2 / total if total > COLLAPSED else np.zeros(min(k, len(values)))
    return left[:, :k] * values[:k], shares


def laplacian_alignment(points: ArrayLike, adjacency: ArrayLike, k: int = 2) -> float | None:
    """Overlap, in [0, 1], of the first `k` principal directions over nodes with the graph's slowest `k` modes.

    Modes that are as slow as the last of them are counted in, since which of them are meant is not decided. None if
    the places span fewer than `k` directions.
    """
    x, graph = np.asarray(points, dtype=np.float64), np.asarray(adjacency, dtype=np.float64)
    left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    if len(values) < k or values[k - 1] <= COLLAPSED * max(1.0, float(values[0])):
        return None
    eigenvalues, modes = np.linalg.eigh(np.diag(graph.sum(axis=1)) - graph)
    last = eigenvalues[k] + SAME_EIGENVALUE
    chosen = modes[:, 1:][:, eigenvalues[1:] <= last]
    return float(((left[:, :k].T @ chosen) ** 2).sum() / k)


def neighbour_mixing(points: ArrayLike, adjacency: ArrayLike) -> FloatArray:
    """Every place plus the mean of its neighbours' places: the null model that copies whatever stood beside."""
    x, graph = np.asarray(points, dtype=np.float64), np.asarray(adjacency, dtype=np.float64)
    return np.asarray(x + graph @ x / graph.sum(axis=1, keepdims=True))


def class_means(hidden: ArrayLike, node_ids: ArrayLike, nodes: int, window: int = 50) -> tuple[FloatArray, IntArray]:
    """Mean state of each node over its occurrences in the last `window` positions.

    Parameters
    ----------
    hidden : [length, d]
    node_ids : [length]

    Returns
    -------
    means : [nodes, d]; NaN for nodes that do not occur
    counts : [nodes]
    """
    states, ids = np.asarray(hidden, dtype=np.float64)[-window:], np.asarray(node_ids)[-window:]
    sums = np.zeros((nodes, states.shape[1]))
    np.add.at(sums, ids, states)
    counts = np.bincount(ids, minlength=nodes).astype(np.int64)
    with np.errstate(invalid="ignore"):
        return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.nan), counts


# -- prediction --------------------------------------------------------------------------------------------------------


def rule_following_accuracy(node_probs: ArrayLike, current: ArrayLike, adjacency: ArrayLike) -> FloatArray:
    """Probability on the neighbours of the current node, at every step.

    node_probs : [length, n]
    current : [length]
    """
    allowed = np.asarray(adjacency)[np.asarray(current)]
    return np.asarray((np.asarray(node_probs, dtype=np.float64) * allowed).sum(axis=1))


def bigram_baseline(node_ids: ArrayLike, adjacency: ArrayLike) -> FloatArray:
    """What counting successors so far gives at every step; a node not followed yet is guessed uniformly."""
    ids, graph = np.asarray(node_ids).tolist(), np.asarray(adjacency)
    n = len(graph)
    counts = np.zeros((n, n), dtype=np.int64)
    found = []
    for place, node in enumerate(ids):
        if place:
            counts[ids[place - 1], node] += 1
        total = counts[node].sum()
        found.append(float(counts[node][graph[node] > 0].sum() / total if total else graph[node].sum() / n))
    return np.array(found)


def memorization_curve(nodes: int, context: Sequence[int], shots: int = 1) -> FloatArray:
    """Chance that a node was visited once (or, for `shots` 2, twice) among so many independent uniform visits."""
    length = np.asarray(context, dtype=np.float64)
    missed = (nodes - 1) / nodes
    once = 1 - missed**length
    if shots == 1:
        return np.asarray(once)
    if shots != 2:
        raise GraphError(f"the curve is known for one or two visits, not {shots}")
    return np.asarray(once - length / nodes * missed ** (length - 1))


def visited_fraction(walk: ArrayLike, nodes: int) -> FloatArray:
    """Share of the nodes visited up to every step of a walk."""
    ids = np.asarray(walk)
    _, first = np.unique(ids, return_index=True)
    return np.asarray(np.cumsum(np.isin(np.arange(len(ids)), first)) / nodes)


def critical_context(context: ArrayLike, accuracy: ArrayLike) -> Critical:
    """Where accuracy over ln context bends: two joined lines of least squared error, joined at one of the contexts.

    Raises
    ------
    GraphError : fewer than four contexts.
    """
    length, y = np.asarray(context, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if len(length) < 4:
        raise GraphError(f"a bend needs accuracy at four or more contexts, not {len(length)}")
    x = np.log(length)
    straight = _fit(np.stack([np.ones_like(x), x], axis=1), y)
    best: Critical | None = None
    for place in range(1, len(x) - 1):
        weights, sse = _fit(np.stack([np.ones_like(x), x, np.maximum(0, x - x[place])], axis=1), y)
        if best is None or sse < best.sse:
            slopes = float(weights[1]), float(weights[1] + weights[2])
            best = Critical(float(length[place]), sse, *slopes, straight[1])
    assert best is not None
    return best


def _fit(design: FloatArray, y: FloatArray) -> tuple[FloatArray, float]:
    weights: FloatArray = np.linalg.lstsq(design, y, rcond=None)[0].astype(np.float64)
    return weights, float(((design @ weights - y) ** 2).sum())


def power_law_fit(nodes: ArrayLike, critical: ArrayLike) -> tuple[float, float]:
    """Exponent and prefactor of critical context against the number of nodes, by a line through the logarithms."""
    x, y = np.log(np.asarray(nodes, dtype=np.float64)), np.log(np.asarray(critical, dtype=np.float64))
    if len(x) < 2:
        raise GraphError("a power law needs two or more sizes")
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.exp(offset))
