"""Reading a fixed context with a model and clustering its keys: the work that is done once, before the questions.

One dense forward fills a cache and shows the queries of the context's end; k-means and calibration follow. Layers
whose attention could not be squeezed later (windows, capped scores) are left without clusters.

Source: arXiv 2411.09688, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import PrivateAttr
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from farspan.attention.clustered_keys import (
    COARSE_QUANTILE,
    LEAST_CLUSTERED,
    PrefixCache,
    PrefixLayerData,
    cluster_keys,
    model_fingerprint,
    rope_fingerprint,
)
from farspan.attention.lookup import SqueezeError, calibrate_thresholds
from farspan.attention.selection import Attended, AttentionContext
from farspan.attention.squeezed import Squeezed

_CHUNK = 4096


class _Recorder(Squeezed):
    """Keeps each layer's last queries and leaves attention dense."""

    _window: int = PrivateAttr(0)
    # queries, scaling, and size of a key by layer
    _queries: dict[int, tuple[Tensor, float, int]] = PrivateAttr(default_factory=dict)

    @contextmanager
    def prepared(self, model: PreTrainedModel) -> Iterator[None]:
        yield

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Attended | str | None:
        before = self._queries.get(context.layer_idx)
        rows = query[0, :, -self._window :].detach()
        if before is not None:
            rows = torch.cat([before[0], rows], dim=1)[:, -self._window :]
        self._queries[context.layer_idx] = (rows.clone(), context.scaling, key.shape[-1])
        return "recording"


def build_prefix_cache(
    model: PreTrainedModel,
    ids: Sequence[int],
    *,
    cluster_ratio: float = 0.05,
    coarse_ratio: float | None = None,
    observation_window: int = 100,
    quantiles: Sequence[float] = (0.5, 0.7, 0.8, 0.9),
    iterations: int = 50,
    seed: int = 0,
    centred: bool = True,
    variance_correction: bool = False,
    store_dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrefixCache:
    """Read a context and cluster its keys.

    Parameters
    ----------
    ids : token ids of the context, from position 0
    cluster_ratio, coarse_ratio : clusters over keys, of the fine level and of a coarse one above it
    observation_window : last tokens that are never clustered and always read; thresholds are calibrated on them
    quantiles : sparsities to calibrate now; others are calibrated when asked for
    iterations, seed : of k-means
    centred : see `cluster_keys`
    variance_correction : estimates count the variance inside clusters
    store_dtype : dtype of kept keys and values, the cache's own where left out
    progress : called with layers done and layers in all

    Raises
    ------
    SqueezeError : the context is too short, the model keeps no keys of all tokens, or none of its layers can be
        squeezed.
    """
    if len(ids) < observation_window + LEAST_CLUSTERED:
        raise SqueezeError(
            f"the context has {len(ids)} tokens; squeezing needs at least {observation_window + LEAST_CLUSTERED} "
            f"({observation_window} are always read)"
        )
    config = model.config.get_text_config(decoder=True)
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise SqueezeError(f"{type(model).__name__} keeps no keys of every token in every layer; it cannot be squeezed")
    cache, recorded = _read(model, ids, observation_window)
    # a cache that holds something else than the keys attention sees, such as their compressed form, cannot serve
    queries = {
        index: found
        for index, found in recorded.items()
        if isinstance(held := cache.layers[index], DynamicLayer)
        and held.keys is not None
        and held.keys.shape[-1] == found[2]
    }
    layers = []
    for index, held in enumerate(cache.layers):
        assert isinstance(held, DynamicLayer)
        assert held.keys is not None
        assert held.values is not None
        keys, values = held.keys[0], held.values[0]
        kept = _stored(keys, store_dtype), _stored(values, store_dtype)
        if index in queries:
            rows, scaling, _ = queries[index]
            labels, clusters = cluster_keys(
                keys[:, : len(ids) - observation_window],
                cluster_ratio=cluster_ratio,
                coarse_ratio=coarse_ratio,
                iterations=iterations,
                seed=seed,
                centred=centred,
                spread=variance_correction,
            )
            layer = PrefixLayerData(*kept, rows, labels, clusters, scaling)
        else:
            layer = PrefixLayerData(*kept)
        layers.append(layer)
        if progress is not None:
            progress(index + 1, len(cache.layers))
    if not queries:
        raise SqueezeError(
            f"no layer of {type(model).__name__} can be squeezed: they use windows, capped scores or compressed keys"
        )
    built = PrefixCache(
        ids=tuple(int(token) for token in ids),
        window=observation_window,
        layers=tuple(layers),
        model=model_fingerprint(model),
        rope=rope_fingerprint(model),
    )
    return PrefixCache(**{**vars(built), "thresholds": _thresholds(built, quantiles)})


def _thresholds(cache: PrefixCache, quantiles: Sequence[float]) -> dict[str, dict[str, float]]:
    layers = [cache.layers[index] for index in cache.clustered]
    queries = [layer.queries for layer in layers if layer.queries is not None]
    fine = [layer.clusters for layer in layers if layer.clusters is not None]
    scalings = [layer.scaling for layer in layers]
    coarse = [level.coarse for level in fine if level.coarse is not None]
    found: dict[str, dict[str, float]] = {}
    for heads in ("kv_head", "query_head"):
        each = heads == "query_head"
        found[f"fine {heads}"] = calibrate_thresholds(queries, fine, quantiles, scaling=scalings, per_query_head=each)
        if coarse:
            found[f"coarse {heads}"] = top = calibrate_thresholds(
                queries, coarse, (COARSE_QUANTILE,), scaling=scalings, per_query_head=each
            )
            found[f"filtered {heads}"] = calibrate_thresholds(
                queries,
                fine,
                quantiles,
                scaling=scalings,
                per_query_head=each,
                coarse_threshold=top[str(COARSE_QUANTILE)],
            )
    return found


@torch.no_grad()
def _read(
    model: PreTrainedModel, ids: Sequence[int], window: int
) -> tuple[DynamicCache, dict[int, tuple[Tensor, float, int]]]:
    """A cache of the context; last queries, scaling and size of a key of each layer that can be squeezed."""
    recorder = _Recorder(min_length=0)
    recorder._window = window
    # without a configuration every layer keeps all its keys, windows included
    cache = DynamicCache()
    was_training = model.training
    model.eval()
    device = model.get_input_embeddings().weight.device
    inputs = torch.tensor([list(ids)], dtype=torch.long, device=device)  # type: ignore[arg-type]
    try:
        with recorder(model):
            for begin in range(0, len(ids), _CHUNK):
                model.get_decoder()(input_ids=inputs[:, begin : begin + _CHUNK], past_key_values=cache, use_cache=True)
    finally:
        model.train(was_training)
    return cache, recorder._queries


def _stored(rows: Tensor, dtype: torch.dtype | None) -> Tensor:
    return (rows if dtype is None else rows.to(dtype)).contiguous()
