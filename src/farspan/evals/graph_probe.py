"""The graph tracing probe: how much context a local model needs until it follows a graph it was never told of.

Words walk over a hidden graph; at every step the probe reads what the model expects next, and where its hidden states
of the words lie. Beside each curve stands what plain memory of the context would give, since a picture of the graph
alone proves little: mixing every word with its neighbours draws it too. Levers, if any, are on already.

Source: arXiv 2501.00070, sections 2 to 4; normalised energy, alignment and critical context are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.rng import derive_seed, shuffled
from farspan.evals.graphs import (
    FloatArray,
    IntArray,
    bigram_baseline,
    checked_graph,
    critical_context,
    dirichlet_energy,
    laplacian_alignment,
    memorization_curve,
    neighbour_mixing,
    neighbour_pairs,
    normalized_energy,
    pca,
    random_walk,
    visited_fraction,
)
from farspan.evals.tasks.graph_tracing import node_words

Sampling = Literal["walk", "pairs"]
LOGIT_POSITIONS = 128
"""Positions whose probabilities over the whole vocabulary are held at once."""
PICTURED_LAYER = 0.81
GRID_POINTS = 12
FIRST_CONTEXT = 8
DRAWS = 500


class ProbeError(FarspanError):
    """A probe that cannot be run on this model, or with these words."""


class Interval(BaseModel):
    """A value with its 95 % interval; None where there is none."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    lo: float | None
    hi: float | None
    found: float


class GraphTracingReport(BaseModel):
    """What a probe found.

    words, replaced : word of each node; published words that are not one token here
    steps : per step, means over sequences: `accuracy` (probability on neighbours, whole vocabulary), `in_support` (of
        the words alone), `bigram` and `visited`
    contexts : sizes at which everything below is given
    accuracy, accuracy_by_sequence, baselines : over the steps up to each size since the one before
    layers : indices of hidden states, 0 are the embeddings
    energy, normalized, alignment : [layers][contexts]; None where a word does not occur or all places are one
    mixed : normalised energy and alignment of unrelated points after one round of mixing with neighbours
    coordinates, explained : first two principal components of the pictured layer at the last size
    critical : bend of accuracy over ln context; `found` is the share of resamples that have one
    """

    model_config = ConfigDict(frozen=True)

    model: str
    graph: str
    adjacency: tuple[tuple[int, ...], ...]
    sampling: Sampling
    window: int
    sequences: int
    words: tuple[str, ...]
    replaced: tuple[str, ...]
    steps: dict[str, tuple[float, ...]]
    contexts: tuple[int, ...]
    accuracy: tuple[float, ...]
    accuracy_by_sequence: tuple[tuple[float, ...], ...]
    baselines: dict[str, tuple[float, ...]]
    layers: tuple[int, ...]
    energy: tuple[tuple[float | None, ...], ...]
    normalized: tuple[tuple[float | None, ...], ...]
    alignment: tuple[tuple[float | None, ...], ...]
    mixed: tuple[float, float]
    pictured_layer: int
    coordinates: tuple[tuple[float, float], ...] | None
    explained: tuple[float, ...] | None
    critical: Interval


class GraphTracingProbe:
    """The probe of one model and graph.

    Parameters
    ----------
    model, tokenizer : any causal language model that returns hidden states
    graph : adjacency [n, n]
    name : of the graph, for reports
    words : one a node, each one token behind a space; drawn from the published ones and further nouns if left out
    sampling : one walk a sequence, or neighbouring pairs, read at the first of each
    layers : indices of hidden states, 0 for the embeddings; every one if left out
    window : last positions that count for the mean state of a word
    seed : of words and walks
    beyond_window : allow contexts longer than the model's window

    Raises
    ------
    GraphError : the graph is none.
    ProbeError : words that are not one token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        graph: IntArray,
        *,
        name: str = "graph",
        words: Sequence[str] | None = None,
        sampling: Sampling = "walk",
        layers: Sequence[int] | Literal["auto"] = "auto",
        window: int = 50,
        seed: int = 0,
        beyond_window: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.graph = checked_graph(graph)
        self.sampling, self.layers, self.window = sampling, layers, window
        self.seed, self.beyond_window = seed, beyond_window
        n = len(self.graph)
        chosen = list(words) if words is not None else node_words(n, TokenCounter(tokenizer, cache=False))
        if len(set(chosen)) != n:
            raise ProbeError(f"the graph has {n} nodes and needs as many different words, got {len(set(chosen))}")
        self.words = chosen if words is not None else shuffled_words(chosen, seed)
        encoded: list[list[int]] = tokenizer([f" {word}" for word in self.words], add_special_tokens=False)["input_ids"]
        long = [word for word, ids in zip(self.words, encoded, strict=True) if len(ids) != 1]
        if long:
            raise ProbeError(f"'{long[0]}' is not one token of this tokenizer; give other words")
        self.ids = [ids[0] for ids in encoded]

    def walks(self, context: int, sequences: int) -> IntArray:
        """Nodes [sequences, context]; walks start at every node in turn."""
        rows = []
        for number in range(sequences):
            seed = derive_seed("graph_probe", self.seed, number)
            if self.sampling == "pairs":
                rows.append(neighbour_pairs(self.graph, -(-context // 2), seed).ravel()[:context])
            else:
                rows.append(random_walk(self.graph, context, seed, start=number % len(self.graph)))
        return np.stack(rows)

    def run(self, context: int = 1400, sequences: int = 16) -> GraphTracingReport:
        """Measure.

        Parameters
        ----------
        context : nodes, and so tokens, of a sequence
        sequences : number of walks

        Raises
        ------
        ProbeError : too short, or longer than the model's window.
        """
        if context < 2 * FIRST_CONTEXT or sequences < 1:
            raise ProbeError(f"a probe needs {2 * FIRST_CONTEXT} or more tokens and a sequence, not {context}")
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and context + 1 > limit and not self.beyond_window:
            raise ProbeError(f"{context} tokens are more than the model's window of {limit}; ask for fewer")
        walks = self.walks(context, sequences)
        sizes = grid(context)
        read = self._read(walks, sizes)
        return self._report(walks, sizes, *read)

    @torch.no_grad()
    def _read(self, walks: IntArray, sizes: Sequence[int]) -> tuple[FloatArray, list[int], FloatArray, IntArray]:
        """Probabilities [sequences, context, n]; layers; sums [layers, sizes, n, d] and counts [sizes, n] of states."""
        device = self.model.device
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        columns = torch.tensor(self.ids, device=device)
        n = len(self.graph)
        probs: list[FloatArray] = []
        layers: list[int] = []
        sums: FloatArray | None = None
        counts = np.zeros((len(sizes), n), dtype=np.int64)
        for walk in walks:
            ids = torch.tensor([start + [self.ids[node] for node in walk]], device=device)
            out = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
            logits = out.logits[0, len(start) :]
            parts = [_probabilities(part, columns) for part in logits.split(LOGIT_POSITIONS)]
            probs.append(torch.cat(parts).double().cpu().numpy())
            hidden = out.hidden_states
            layers = list(range(len(hidden))) if self.layers == "auto" else list(self.layers)
            stack = torch.stack([hidden[layer][0, len(start) :] for layer in layers]).float().cpu().numpy()
            if sums is None:
                sums = np.zeros((len(layers), len(sizes), n, stack.shape[-1]))
            for place, size in enumerate(sizes):
                tail = slice(max(0, size - self.window), size)
                counts[place] += np.bincount(walk[tail], minlength=n)
                for row, states in enumerate(stack):
                    np.add.at(sums[row, place], walk[tail], states[tail])
        assert sums is not None
        return np.stack(probs), layers, sums, counts

    def _report(
        self,
        walks: IntArray,
        sizes: Sequence[int],
        probs: FloatArray,
        layers: list[int],
        sums: FloatArray,
        counts: IntArray,
    ) -> GraphTracingReport:
        n, context = len(self.graph), walks.shape[1]
        allowed = self.graph[walks]
        mass = (probs * allowed).sum(axis=2)
        support = mass / np.maximum(probs.sum(axis=2), 1e-300)
        bigram = np.stack([self._bigram(walk) for walk in walks])
        visited = np.stack([visited_fraction(walk, n) for walk in walks])
        # In pairs only the first word of a pair has a successor that the graph decides.
        told = np.arange(context) % 2 == 0 if self.sampling == "pairs" else np.ones(context, dtype=bool)
        binned = _binned(mass, told, sizes)
        steps = np.arange(1, context + 1)
        curves = {
            "uniform": np.full((1, context), self.graph.sum() / n / n),
            "bigram": bigram,
            "visited": visited,
            "memorised once": memorization_curve(n, steps.tolist())[None],
            "memorised twice": memorization_curve(n, steps.tolist(), 2)[None],
        }
        means = [
            [row[place] / count[:, None] if count.all() else None for place, count in enumerate(counts)]
            for row in np.where(counts[None, :, :, None] > 0, sums, np.nan)
        ]
        pictured = layers[min(range(len(layers)), key=lambda i: abs(layers[i] - round(PICTURED_LAYER * max(layers))))]
        last = means[layers.index(pictured)][-1]
        flat = None if last is None else pca(last)
        unrelated = np.random.Generator(np.random.PCG64(self.seed)).standard_normal((n, 512))
        null = neighbour_mixing(unrelated, self.graph)
        return GraphTracingReport(
            model=str(getattr(self.model.config, "name_or_path", "") or type(self.model).__name__),
            graph=self.name,
            adjacency=tuple(tuple(row) for row in self.graph.tolist()),
            sampling=self.sampling,
            window=self.window,
            sequences=len(walks),
            words=tuple(self.words),
            replaced=tuple(published_left_out(self.words)),
            steps={
                "accuracy": tuple(mass.mean(axis=0).tolist()),
                "in_support": tuple(support.mean(axis=0).tolist()),
                "bigram": tuple(bigram.mean(axis=0).tolist()),
                "visited": tuple(visited.mean(axis=0).tolist()),
            },
            contexts=tuple(sizes),
            accuracy=tuple(binned.mean(axis=0).tolist()),
            accuracy_by_sequence=tuple(tuple(row) for row in binned.tolist()),
            baselines={name: tuple(_binned(c, told, sizes).mean(axis=0).tolist()) for name, c in curves.items()},
            layers=tuple(layers),
            energy=_measured(means, lambda x: dirichlet_energy(x, self.graph)),
            normalized=_measured(means, lambda x: normalized_energy(x, self.graph)),
            alignment=_measured(means, lambda x: laplacian_alignment(x, self.graph)),
            mixed=(normalized_energy(null, self.graph) or 0.0, laplacian_alignment(null, self.graph) or 0.0),
            pictured_layer=pictured,
            coordinates=None if flat is None else tuple((float(a), float(b)) for a, b in flat[0]),
            explained=None if flat is None else tuple(flat[1].tolist()),
            critical=critical_interval(sizes, binned, self.seed),
        )

    def _bigram(self, walk: IntArray) -> FloatArray:
        if self.sampling == "walk":
            return bigram_baseline(walk, self.graph)
        n = len(self.graph)
        counts = np.zeros((n, n), dtype=np.int64)
        found = np.zeros(len(walk))
        for place, node in enumerate(walk):
            # What stands before the second word of a pair is its partner; the first word follows nothing.
            if place % 2:
                counts[walk[place - 1], node] += 1
            total = counts[node].sum()
            allowed = self.graph[node]
            found[place] = counts[node][allowed > 0].sum() / total if total else allowed.sum() / n
        return found


def grid(context: int) -> list[int]:
    """Context sizes at which a probe is read: about evenly spaced on a logarithmic axis, the whole context last."""
    points = np.geomspace(FIRST_CONTEXT, context, GRID_POINTS)
    return sorted({round(float(point)) for point in points} | {context})


def shuffled_words(words: Sequence[str], seed: int) -> list[str]:
    """Words on nodes, in an order drawn from the seed."""
    from random import Random

    return shuffled(Random(derive_seed("graph_probe", seed, "words")), words)


def published_left_out(words: Sequence[str]) -> list[str]:
    """Published words that do not serve, where others take their place."""
    from farspan.evals.tasks.graph_tracing import PUBLISHED_WORDS

    taken = set(words)
    spare = len([word for word in words if word not in PUBLISHED_WORDS])
    return [word for word in PUBLISHED_WORDS if word not in taken][:spare]


def critical_interval(contexts: Sequence[int], by_sequence: FloatArray, seed: int, draws: int = DRAWS) -> Interval:
    """The critical context of the mean curve, with a bootstrap interval over sequences.

    by_sequence : accuracy [sequences, contexts]
    """
    whole = critical_context(contexts, by_sequence.mean(axis=0))
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = rng.integers(0, len(by_sequence), size=(draws, len(by_sequence)))
    bends = [critical_context(contexts, by_sequence[row].mean(axis=0)) for row in rows]
    found = [bend.context for bend in bends if bend.found]
    if not whole.found:
        return Interval(value=None, lo=None, hi=None, found=len(found) / draws)
    lo, hi = np.quantile(found or [whole.context], [0.025, 0.975])
    return Interval(value=whole.context, lo=float(lo), hi=float(hi), found=len(found) / draws)


def _probabilities(logits: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits.float(), dim=-1)[:, columns].exp()


def _binned(values: FloatArray, told: np.ndarray[tuple[int], np.dtype[np.bool_]], sizes: Sequence[int]) -> FloatArray:
    """Means [rows, sizes] over the steps up to each size since the one before."""
    columns, start = [], 0
    for size in sizes:
        chosen = values[:, start:size][:, told[start:size]]
        columns.append(chosen.mean(axis=1) if chosen.shape[1] else np.full(len(values), math.nan))
        start = size
    return np.stack(columns, axis=1)


def _measured(means: object, measure: object) -> tuple[tuple[float | None, ...], ...]:
    assert isinstance(means, list)
    assert callable(measure)
    return tuple(tuple(None if points is None else measure(points) for points in row) for row in means)
