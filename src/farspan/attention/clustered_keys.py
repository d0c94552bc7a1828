"""A fixed context, read once, its keys clustered: what squeezed attention looks up, and how it is stored in memory.

A `PrefixCache` is data: token ids, keys and values in their own order, clusters, and the queries of the context's end
that thresholds are calibrated on. `ClusteredLayer` is one layer of it laid out for reading: keys and values sorted by
cluster, so that a kept cluster is a contiguous run. Building asks the model for keys and queries; attention is not
computed here, and files are read and written in `prefix_files`.

Source: arXiv 2411.09688, sections 4.1 and 4.3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from farspan.attention.clusters import kmeans, means
from farspan.attention.lookup import Clusters, SqueezeError, calibrate_thresholds, squeeze_lookup
from farspan.attention.prefix_layers import prefix_layers

RUN = 8
LEAST_CLUSTERED = 20
COARSE_QUANTILE = 0.5
_PROBES = 64


@dataclass(frozen=True, eq=False)
class PrefixLayerData:
    """One layer of a context.

    keys, values : Tensor [Hkv, P, D] and [Hkv, P, Dv], as the model's cache holds them
    queries : Tensor [Hq, W, D] of the last W tokens, rotated; None where the layer is left dense
    labels : Tensor int64 [Hkv, P - W], cluster of each key; None where the layer is left dense
    clusters : None where the layer is left dense
    scaling : factor of the scores
    """

    keys: Tensor
    values: Tensor
    queries: Tensor | None = None
    labels: Tensor | None = None
    clusters: Clusters | None = None
    scaling: float = 1.0


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """A context that was read and clustered.

    ids : token ids of the context
    window : last tokens that are always read
    layers : one a layer of the model
    model : fingerprint of the model, rope : of its rotary frequencies
    thresholds : thresholds calibrated when it was built, by kind and quantile
    """

    ids: tuple[int, ...]
    window: int
    layers: tuple[PrefixLayerData, ...]
    model: str
    rope: str
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def to_cache(self) -> Cache:
        """A transformers cache that begins with the context, for `model.generate(ids, past_key_values=...)`."""
        return prefix_layers([layer.keys for layer in self.layers], [layer.values for layer in self.layers])

    @property
    def clustered(self) -> list[int]:
        """Layers that have clusters."""
        return [index for index, layer in enumerate(self.layers) if layer.clusters is not None]

    def threshold(
        self, sparsity: float, *, per_query_head: bool = False, hierarchical: bool = False, filtered: bool = False
    ) -> tuple[float, float]:
        """Fine and coarse threshold that drop this share of the clustered keys of the whole model.

        Stored thresholds are taken where they were calibrated so, others are calibrated now on the stored queries.
        Sparsity 0 gives 0, which reads everything.

        filtered : count what the coarse level leaves, as at run time; otherwise the fine level alone, as published

        Raises
        ------
        SqueezeError : a coarse level is asked for and there is none.
        """
        if sparsity == 0.0:
            return 0.0, 0.0
        heads = "query_head" if per_query_head else "kv_head"
        coarse = 0.0
        if hierarchical:
            if any(self._clusters(index).coarse is None for index in self.clustered):
                raise SqueezeError("this context has one level of clusters; build it with a coarse_ratio")
            coarse = self._calibrated(f"coarse {heads}", COARSE_QUANTILE, per_query_head, 0.0)
        kind = f"filtered {heads}" if hierarchical and filtered else f"fine {heads}"
        return self._calibrated(kind, sparsity, per_query_head, coarse), coarse

    def kept_fractions(
        self, sparsity: float, *, per_query_head: bool = False, hierarchical: bool = False, filtered: bool = False
    ) -> dict[int, float]:
        """Share of the clustered keys that the context's last queries keep, by layer."""
        fine, coarse = self.threshold(
            sparsity, per_query_head=per_query_head, hierarchical=hierarchical, filtered=filtered
        )
        shares = {}
        for index in self.clustered:
            layer, clusters = self.layers[index], self._clusters(index)
            assert layer.queries is not None
            looked = squeeze_lookup(
                layer.queries[None],
                clusters if hierarchical else clusters.flat(),
                fine,
                coarse_threshold=coarse,
                scaling=layer.scaling,
                per_query_head=per_query_head,
            )
            sizes = clusters.counts.repeat_interleave(looked.keep.shape[1] // len(clusters.counts), dim=0)
            shares[index] = float((sizes * looked.keep[0]).sum() / sizes.sum())
        return shares

    def largest_share(self) -> float:
        """Share of a head's keys that its largest cluster holds, the largest over all heads."""
        shares = [
            float((clusters.counts.amax(-1) / clusters.counts.sum(-1)).max())
            for clusters in (self._clusters(index) for index in self.clustered)
        ]
        return max(shares, default=0.0)

    def bytes(self) -> int:
        """Size of keys and values."""
        return sum(x.numel() * x.element_size() for layer in self.layers for x in (layer.keys, layer.values))

    def _clusters(self, index: int) -> Clusters:
        clusters = self.layers[index].clusters
        assert clusters is not None
        return clusters

    def _calibrated(self, kind: str, quantile: float, per_query_head: bool, coarse: float) -> float:
        stored = self.thresholds.get(kind, {})
        if str(quantile) in stored:
            return stored[str(quantile)]
        queries, clusters, scalings = [], [], []
        for index in self.clustered:
            layer = self.layers[index]
            assert layer.queries is not None
            level = self._clusters(index)
            if kind.startswith("coarse"):
                assert level.coarse is not None
                level = level.coarse
            queries.append(layer.queries)
            clusters.append(level)
            scalings.append(layer.scaling)
        found = calibrate_thresholds(
            queries,
            clusters,
            (quantile,),
            scaling=scalings,
            per_query_head=per_query_head,
            coarse_threshold=coarse if kind.startswith("filtered") else None,
        )
        return found[str(quantile)]


def cluster_keys(
    keys: Tensor,
    *,
    cluster_ratio: float = 0.05,
    coarse_ratio: float | None = None,
    iterations: int = 50,
    seed: int = 0,
    centred: bool = True,
    spread: bool = False,
) -> tuple[Tensor, Clusters]:
    """Cluster the keys of one layer by direction.

    Parameters
    ----------
    keys : Tensor [Hkv, n, D], rotated
    cluster_ratio, coarse_ratio : clusters over keys, of the fine level and of a coarse one above it
    centred : take off a head's mean key before directions are compared, so that a part common to all keys does not
        put most of them in one cluster; centroids are means of the keys as they are
    spread : also measure the variance inside clusters

    Returns
    -------
    (labels int64 [Hkv, n], Clusters)

    Source: arXiv 2411.09688, sections 4.1 and 4.3.
    """
    rows = keys.float()
    directions = _directions(rows - rows.mean(1, keepdim=True) if centred else rows)
    wanted = max(1, round(keys.shape[1] * cluster_ratio))
    labels = kmeans(directions, wanted, iterations=iterations, seed=seed)
    found = clusters_of(rows, labels, spread=spread)
    if coarse_ratio is None:
        return labels, found
    centroids = found.centroids
    if centred:
        centroids = centroids - rows.mean(1, keepdim=True)
    coarse_of = torch.zeros_like(found.counts)
    coarse_wanted = max(1, round(keys.shape[1] * coarse_ratio))
    for head, counts in enumerate(found.counts):
        real = int((counts > 0).sum())
        coarse_of[head, :real] = kmeans(
            _directions(centroids[head : head + 1, :real]), coarse_wanted, iterations=iterations, seed=seed
        )[0]
    return labels, with_coarse(found, coarse_of)


def clusters_of(keys: Tensor, labels: Tensor, *, count: int | None = None, spread: bool = False) -> Clusters:
    """Centroids and sizes of given clusters: keys [Hkv, n, D], labels int64 [Hkv, n]."""
    wide = int(labels.max()) + 1 if count is None else count
    found = [means(rows.float(), label, wide) for rows, label in zip(keys, labels, strict=True)]
    centroids, counts = torch.stack([one[0] for one in found]), torch.stack([one[1] for one in found])
    variance = None
    if spread:
        at = labels[..., None].expand(-1, -1, keys.shape[-1])
        apart = (keys.float() - centroids.gather(1, at)).square().mean(-1)
        variance = torch.zeros_like(counts, dtype=torch.float32).scatter_add_(1, labels, apart) / counts.clamp(min=1)
    return Clusters(centroids, counts, spread=variance)


def with_coarse(fine: Clusters, coarse_of: Tensor) -> Clusters:
    """Put a coarse level above: its centroids are plain means of fine centroids, its sizes count keys."""
    wide = int(coarse_of.max()) + 1
    real = (fine.counts > 0).float()
    at = coarse_of[..., None].expand(-1, -1, fine.centroids.shape[-1])
    total = fine.centroids.new_zeros(len(coarse_of), wide, fine.centroids.shape[-1])
    total.scatter_add_(1, at, fine.centroids * real[..., None])
    members = real.new_zeros(len(coarse_of), wide).scatter_add_(1, coarse_of, real)
    counts = torch.zeros(len(coarse_of), wide, dtype=fine.counts.dtype, device=fine.counts.device)
    counts.scatter_add_(1, coarse_of, fine.counts)
    coarse = Clusters(total / members.clamp(min=1)[..., None], counts)
    return Clusters(fine.centroids, fine.counts, coarse_of, coarse, fine.spread)


@dataclass(eq=False)
class ClusteredLayer:
    """One layer of a context, laid out for reading.

    clusters : as looked up
    table : Tensor [runs, RUN * (D + Dv)], each key beside its value, sorted by head and cluster; a cluster is a whole
        number of runs
    bias : Tensor [runs, RUN] in the keys' dtype, -inf where a run is filled up, else 0
    first, runs : Tensor int64 [Hkv, K], where a cluster's runs begin, and how many they are
    context : Tensor [Hkv, P, D], keys in their own order
    length, window : tokens of the context, and its last ones that are always read
    log_counts : Tensor float32 [Hkv, K], logarithms of the clusters' sizes, -inf for empty ones
    """

    clusters: Clusters
    table: Tensor
    bias: Tensor
    first: Tensor
    runs: Tensor
    context: Tensor
    length: int
    window: int
    log_counts: Tensor = field(init=False)
    _probes: slice = field(init=False)
    _probed: Tensor = field(init=False)
    _tolerance: float = field(init=False)
    _seen: set[int] = field(default_factory=set)
    _scratch: Tensor | None = None

    def __post_init__(self) -> None:
        self.log_counts = self.clusters.counts.float().log().contiguous()
        # evenly spaced, so that they are a view of any cache
        self._probes = slice(0, self.length, max(1, self.length // _PROBES))
        self._probed = self.context[:, self._probes].contiguous()
        share = 1e-3 if self.context.dtype in (torch.float32, torch.float64) else 2e-2
        self._tolerance = share * float(self.context.float().square().mean().sqrt()) + 1e-6

    @classmethod
    def of(
        cls, keys: Tensor, values: Tensor, labels: Tensor, clusters: Clusters, like: Tensor | None = None
    ) -> ClusteredLayer:
        """Lay out keys [Hkv, P, D] and values of which the first [Hkv, n] are in clusters `labels`.

        like : tensor whose device and dtype the keys and values get
        """
        if like is not None:
            keys, values, labels = keys.to(like), values.to(like), labels.to(like.device)
            clusters = clusters.to(like.device)
        heads, count = labels.shape
        runs = -(-clusters.counts // RUN)
        first = runs.flatten().cumsum(0).view_as(runs) - runs
        order = labels.argsort(dim=-1, stable=True)
        ranked = labels.gather(1, order)
        begin = clusters.counts.cumsum(-1) - clusters.counts
        inside = torch.arange(count, device=labels.device) - begin.gather(1, ranked)
        place = (first.gather(1, ranked) * RUN + inside).flatten()
        total = int(runs.sum()) * RUN
        source = (torch.arange(heads, device=labels.device)[:, None] * keys.shape[1] + order).flatten()
        pairs = torch.cat([keys, values], -1).flatten(0, 1)
        table = pairs.new_zeros(total, pairs.shape[-1])
        table[place] = pairs[source]
        bias = keys.new_full((total,), -torch.inf)
        bias[place] = 0.0
        return cls(
            clusters=clusters,
            table=table.view(-1, RUN * pairs.shape[-1]),
            bias=bias.view(-1, RUN),
            first=first,
            runs=runs,
            context=keys,
            length=keys.shape[1],
            window=keys.shape[1] - count,
        )

    def begins(self, key: Tensor, *, whole: bool) -> bool:
        """Whether these keys [1, Hkv, L, D] begin with the context, up to rounding.

        All are compared where `whole` says so or the memory they lie in was not seen before, otherwise some.
        """
        if key.shape[2] < self.length or key.shape[1] != len(self.context) or key.shape[-1] != self.context.shape[-1]:
            return False
        place = key.data_ptr()
        if whole or place not in self._seen:
            found = (key[0, :, : self.length] - self.context).abs().amax((0, 2)) > self._tolerance
            if bool(found.any()):
                self._seen.discard(place)
                return False
            if len(self._seen) > 4096:
                self._seen.clear()
            self._seen.add(place)
            return True
        some = (key[0][:, self._probes] - self._probed).abs().amax()
        return bool(some <= self._tolerance)

    def collect(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [runs * RUN, D], values and biases [runs * RUN] of these runs; they last until the next call."""
        held, dim = self._scratch, self.context.shape[-1]
        if held is None or len(held) < len(index):
            # memory that is used again stays in the processor's cache, and costs no page faults
            held = self._scratch = self.table.new_empty(len(index) * 5 // 4 + 1, self.table.shape[1])
        found = torch.index_select(self.table, 0, index, out=held[: len(index)]).view(len(index) * RUN, -1)
        return found[:, :dim], found[:, dim:], self.bias.index_select(0, index).flatten()

    def kept_runs(self, keep: Tensor) -> list[Tensor]:
        """Indices of the runs of kept clusters, one tensor a head.

        keep : Tensor bool [H, K], H a multiple of the KV heads
        """
        heads = len(keep)
        runs, first = self.runs, self.first
        if heads != len(first):
            runs, first = (x.repeat_interleave(heads // len(first), dim=0) for x in (runs, first))
        lengths, starts = runs[keep], first[keep]
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        index = torch.arange(total, device=keep.device) + (starts - ends + lengths).repeat_interleave(lengths)
        per_head = (runs * keep).sum(-1).tolist()
        return list(torch.split(index, per_head))


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that change with the model's weights, read at a few places of each."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        at = torch.linspace(0, flat.numel() - 1, 16, dtype=torch.float64).long().to(flat.device)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(flat[at].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def rope_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that change with the rotary frequencies a model uses now."""
    digest = hashlib.sha256()
    for name, buffer in model.named_buffers():
        if name.rsplit(".", 1)[-1].endswith("inv_freq") and "original" not in name:
            digest.update(buffer.detach().float().cpu().numpy().tobytes())
    for module in model.modules():
        if hasattr(module, "attention_scaling"):
            digest.update(f"{float(module.attention_scaling):.9g}".encode())  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def _directions(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
