"""Squeezed attention: many questions on one fixed context, reading only the clusters of its keys that matter.

The context's keys are clustered beforehand. New tokens compare their queries with centroids alone, read exact keys and
values of the clusters whose estimated attention passes a threshold, and read the context's last tokens and everything
after it as always; the two parts are put together by their logsumexps. It serves the prefill of a question and
decoding, and is exact at sparsity 0. A row that does not begin with the context is attended densely.

Source: arXiv 2411.09688, sections 4.1 to 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farspan.attention.cluster_reading import look_up, read_clusters
from farspan.attention.clustered_keys import ClusteredLayer, PrefixCache, model_fingerprint, rope_fingerprint
from farspan.attention.grouped import grouped_attention
from farspan.attention.lever import AttentionLever
from farspan.attention.lookup import Lookup, SqueezeError, squeeze_lookup
from farspan.attention.selection import Attended, AttentionContext
from farspan.errors import LeverNotApplicable

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

ATTRIBUTE = "_farspan_clustered"
# of a question's tokens that share a set: a mean over all of them blurs what the last one looks for
QUERY_BLOCK = 4


@dataclass(frozen=True, eq=False)
class Context:
    """What hangs on an attention module: the layer's clusters, and thresholds for the lever's sparsity."""

    layer: ClusteredLayer
    threshold: float
    coarse_threshold: float


class Squeezed(AttentionLever):
    """Reads a fixed context through its clusters of keys.

    prefix : folder of the clustered context, written by `fit` or `farspan squeeze`
    sparsity : share of the context's keys to drop, over all layers and heads together; 0 reads everything
    hierarchical : look coarse clusters up first, then the fine ones of those that pass
    selection : one set of clusters for the query heads of a group, which share their reading, or one for each
    average_queries : one set for all new tokens of a call, as published; otherwise one for every 4 of them, which
        reads what each looks for
    calibrate_filtered : calibrate the fine level on what the coarse level leaves
    layer_floor : share of the context's keys that every head of every layer keeps at least
    """

    name: ClassVar[str] = "squeezed"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "calibration"
    weights_fields: ClassVar[tuple[str, ...]] = ("prefix",)

    # below it a dense decoding step is as fast on a CPU
    min_length: Annotated[int, Field(ge=0)] = 2048
    stage: Literal["prefill", "all"] = "all"

    prefix: str | None = None
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    hierarchical: bool = False
    selection: Literal["kv_head", "query_head"] = "kv_head"
    average_queries: bool = False
    calibrate_filtered: bool = False
    layer_floor: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    def fit(
        self,
        model: PreTrainedModel,
        ids: Sequence[int],
        out: str | Path,
        *,
        cluster_ratio: float = 0.05,
        coarse_ratio: float | None = None,
        seed: int = 0,
    ) -> Squeezed:
        """Read a context with the model, cluster its keys, save both in a folder.

        Parameters
        ----------
        ids : the context's token ids
        out : the folder to write

        Returns
        -------
        This lever with `prefix` set.

        Raises
        ------
        SqueezeError : the context is too short, or the model's layers cannot be clustered.
        """
        from farspan.attention.prefix_building import build_prefix_cache
        from farspan.attention.prefix_files import save_prefix

        coarse = 0.01 if coarse_ratio is None and self.hierarchical else coarse_ratio
        save_prefix(
            build_prefix_cache(model, ids, cluster_ratio=cluster_ratio, coarse_ratio=coarse, seed=seed), Path(out)
        )
        return self.model_copy(update={"prefix": str(out)})

    def load(self) -> PrefixCache:
        """The clustered context.

        Raises
        ------
        SqueezeError : no folder is set, or it holds no context.
        """
        from farspan.attention.prefix_files import load_prefix

        if self.prefix is None:
            raise SqueezeError(f"lever '{self.name}' has no context yet; call fit, or give prefix=DIR")
        return load_prefix(Path(self.prefix))

    def known_contexts(self) -> Iterable[tuple[Sequence[int], Cache]]:
        cache = self.load()
        yield cache.ids, cache.to_cache()

    @contextmanager
    def prepared(self, model: PreTrainedModel) -> Iterator[None]:
        cache = self.load()
        _check_model(cache, model)
        fine, coarse = cache.threshold(
            self.sparsity,
            per_query_head=self.selection == "query_head",
            hierarchical=self.hierarchical,
            filtered=self.calibrate_filtered,
        )
        marked: list[nn.Module] = []
        try:
            for module in model.modules():
                index = getattr(module, "layer_idx", None)
                if not isinstance(index, int) or index not in cache.clustered:
                    continue
                layer = cache.layers[index]
                if layer.labels is None or layer.clusters is None:
                    continue
                weight = next(module.parameters(), None)
                laid_out = ClusteredLayer.of(
                    layer.keys,
                    layer.values,
                    layer.labels,
                    layer.clusters if self.hierarchical else layer.clusters.flat(),
                    weight,
                )
                setattr(module, ATTRIBUTE, Context(laid_out, fine, coarse))
                marked.append(module)
            yield
        finally:
            for module in marked:
                delattr(module, ATTRIBUTE)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Attended | str | None:
        held = vars(context.module).get(ATTRIBUTE)
        if not isinstance(held, Context):
            return "layer without clusters"
        if context.q_offset < held.layer.length:
            return "context not read yet"
        if torch.is_grad_enabled() and query.requires_grad:
            return "gradients"
        if not held.layer.begins(key, whole=query.shape[2] > 1):
            return "another context"
        begin = held.layer.length - held.layer.window
        output, lse, kept = squeezed_attention(
            query,
            key[:, :, begin:],
            value[:, :, begin:],
            held.layer,
            held.threshold,
            coarse_threshold=held.coarse_threshold,
            scaling=context.scaling,
            per_query_head=self.selection == "query_head",
            query_block=None if self.average_queries else QUERY_BLOCK,
            floor=self.layer_floor,
        )
        rows = query.shape[2]
        causal = rows * context.q_offset + rows * (rows + 1) / 2
        local = causal - rows * begin
        context.record("kept_of_context", kept / (rows * max(1, begin)))
        return Attended(output, lse, kept + local, torch.full_like(kept, causal), "clusters")


def squeezed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: ClusteredLayer,
    threshold: float,
    *,
    coarse_threshold: float = 0.0,
    scaling: float | None = None,
    per_query_head: bool = False,
    query_block: int | None = None,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of new tokens over kept clusters of a context and everything after the clustered part.

    Parameters
    ----------
    query : Tensor [1, Hq, Lq, D], of the last Lq tokens
    key, value : Tensor [1, Hkv, R, D], the context's last, unclustered tokens and all tokens after it
    query_block : rows that share a set of clusters; None for all
    floor : share of the clustered keys a head keeps at least

    Returns
    -------
    (output [1, Hq, Lq, Dv], logsumexp [1, Hq, Lq], kept cells of the clustered part [H] in float64)

    Source: arXiv 2411.09688, sections 4.2 and 4.3.
    """
    length, recent = query.shape[2], key.shape[2]
    mask = None
    if length > 1:
        rows = torch.arange(recent - length, recent, device=query.device)
        mask = torch.arange(recent, device=query.device) <= rows[:, None]
    near, near_lse = grouped_attention(query, key, value, scaling=scaling, mask=mask)
    sets = query.shape[1] if per_query_head else len(layer.clusters.counts)
    far, far_lses, cells = [], [], torch.zeros((), dtype=torch.float64)
    for part in torch.split(query, query_block or length, dim=2):
        looked = look_up(part, layer, threshold, scaling, sets)
        if looked is None:
            looked = squeeze_lookup(
                part,
                layer.clusters,
                threshold,
                coarse_threshold=coarse_threshold,
                scaling=scaling,
                per_query_head=per_query_head,
            )
        keep = looked.keep[0] if floor == 0.0 else _with_floor(looked, layer.clusters.counts, floor)
        output, lse = _over_clusters(part, layer, keep, scaling)
        far.append(output)
        far_lses.append(lse)
        sizes = layer.clusters.counts
        if len(keep) != len(sizes):
            sizes = sizes.repeat_interleave(len(keep) // len(sizes), dim=0)
        cells = cells + (sizes * keep).sum(-1).double().cpu() * part.shape[2]
    wide, norm = torch.cat(far, 2), torch.cat(far_lses, 2)
    # of two parts, each weighs by the other's logsumexp
    share = torch.sigmoid(norm - near_lse).to(near.dtype)
    return torch.lerp(near, wide, share[..., None]), torch.logaddexp(near_lse, norm), cells


def _over_clusters(query: Tensor, layer: ClusteredLayer, keep: Tensor, scaling: float | None) -> tuple[Tensor, Tensor]:
    """Attention [1, Hq, Lq, Dv] over the kept clusters, and its logsumexp [1, Hq, Lq]."""
    if (read := read_clusters(query, layer, keep, scaling)) is not None:
        return read
    return _over_collected(query, layer, keep, scaling)


def _over_collected(query: Tensor, layer: ClusteredLayer, keep: Tensor, scaling: float | None) -> tuple[Tensor, Tensor]:
    """The same with torch, the clusters' keys and values copied together first."""
    heads, length = query.shape[1], query.shape[2]
    outputs, lses = [], []
    for rows, runs in zip(query[0].chunk(len(keep)), layer.kept_runs(keep), strict=True):
        keys, values, bias = layer.collect(runs)
        output, lse = grouped_attention(
            rows.reshape(1, 1, -1, rows.shape[-1]),
            keys[None, None],
            values[None, None],
            scaling=scaling,
            bias=bias[None],
        )
        outputs.append(output)
        lses.append(lse)
    return (
        torch.cat(outputs, 1).reshape(1, heads, length, outputs[0].shape[-1]),
        torch.cat(lses, 1).reshape(1, heads, length),
    )


def _with_floor(looked: Lookup, counts: Tensor, floor: float) -> Tensor:
    """Kept clusters [H, K], each head's best ones added until they hold the share of its keys."""
    scores, keep = looked.scores[0], looked.keep[0]
    sizes = counts.repeat_interleave(len(scores) // len(counts), dim=0)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = sizes.gather(-1, order)
    before = ranked.cumsum(-1) - ranked
    wanted = (before < floor * sizes.sum(-1, keepdim=True)) & (ranked > 0)
    return keep | torch.zeros_like(keep).scatter(-1, order, wanted)


def _check_model(cache: PrefixCache, model: PreTrainedModel) -> None:
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if len(cache.layers) != layers or cache.model != model_fingerprint(model):
        raise LeverNotApplicable(
            "lever 'squeezed': the context was read by another model or other weights; "
            "run 'farspan squeeze' with this model"
        )
    if cache.rope != rope_fingerprint(model):
        raise LeverNotApplicable(
            "lever 'squeezed': the context was read with other rotary frequencies; "
            "run 'farspan squeeze' with the same position levers, and put them before this lever"
        )
