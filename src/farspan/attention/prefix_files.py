"""A clustered context as a folder: one safetensors file, and a description that says what it belongs to.

What is read back is checked: the hash of the ids, the numbers of layers, and that thresholds and centroids are finite.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from farspan.attention.clustered_keys import PrefixCache, PrefixLayerData
from farspan.attention.lookup import Clusters, SqueezeError

TENSORS = "prefix.safetensors"
DESCRIPTION = "prefix.json"
_FORMAT = 1


def save_prefix(cache: PrefixCache, folder: Path) -> Path:
    """Write a clustered context into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {"ids": torch.tensor(cache.ids, dtype=torch.int64)}
    scalings: list[float] = []
    for index, layer in enumerate(cache.layers):
        parts = {"keys": layer.keys, "values": layer.values, "queries": layer.queries, "labels": layer.labels}
        if layer.clusters is not None:
            parts |= {f"fine.{name}": tensor for name, tensor in _tensors(layer.clusters).items()}
            if layer.clusters.coarse is not None:
                parts |= {f"coarse.{name}": tensor for name, tensor in _tensors(layer.clusters.coarse).items()}
        tensors |= {f"{index}.{name}": x.cpu().contiguous().clone() for name, x in parts.items() if x is not None}
        scalings.append(layer.scaling)
    description = {
        "format": _FORMAT,
        "tokens": len(cache),
        "tokens_hash": ids_hash(cache.ids),
        "window": cache.window,
        "layers": len(cache.layers),
        "scalings": scalings,
        "model": cache.model,
        "rope": cache.rope,
        "thresholds": cache.thresholds,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    save_file(tensors, str(folder / TENSORS))
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def load_prefix(folder: Path) -> PrefixCache:
    """Read a clustered context.

    Raises
    ------
    SqueezeError : the folder holds none, or one that is damaged.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(str(folder / TENSORS))
    except (OSError, ValueError, SafetensorError) as error:
        raise SqueezeError(
            f"no clustered context in {folder} ({type(error).__name__}); make one with 'farspan squeeze'"
        ) from error
    try:
        if description["format"] != _FORMAT:
            raise SqueezeError(
                f"{folder} is of format {description['format']}, this version reads {_FORMAT}; make it anew"
            )
        ids = tuple(tensors["ids"].tolist())
        layers = [_layer(tensors, index, scaling) for index, scaling in enumerate(description["scalings"])]
        cache = PrefixCache(
            ids=ids,
            window=int(description["window"]),
            layers=tuple(layers),
            model=str(description["model"]),
            rope=str(description["rope"]),
            thresholds=description["thresholds"],
        )
        whole = ids_hash(ids) == description["tokens_hash"] and len(layers) == description["layers"]
    except KeyError as error:
        raise SqueezeError(f"the context in {folder} is damaged: {error} is missing; make it anew") from error
    finite = [value for kind in cache.thresholds.values() for value in kind.values()]
    centroids = [layer.clusters.centroids for layer in layers if layer.clusters is not None]
    if not whole or not all(0 <= value < float("inf") for value in finite):
        raise SqueezeError(f"the context in {folder} is damaged: its ids or thresholds are wrong; make it anew")
    if not all(bool(rows.isfinite().all()) for rows in centroids):
        raise SqueezeError(f"the context in {folder} is damaged: its centroids are not finite; make it anew")
    return cache


def ids_hash(ids: Sequence[int]) -> str:
    """Hash of token ids, hexadecimal."""
    return hashlib.sha256(array("q", ids).tobytes()).hexdigest()


def _tensors(clusters: Clusters) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vars(clusters).items() if isinstance(tensor, Tensor)}


def _layer(tensors: dict[str, Tensor], index: int, scaling: float) -> PrefixLayerData:
    def part(name: str) -> Tensor | None:
        return tensors.get(f"{index}.{name}")

    return PrefixLayerData(
        keys=tensors[f"{index}.keys"],
        values=tensors[f"{index}.values"],
        queries=part("queries"),
        labels=part("labels"),
        clusters=_level(tensors, f"{index}.fine", _level(tensors, f"{index}.coarse", None)),
        scaling=scaling,
    )


def _level(tensors: dict[str, Tensor], name: str, coarse: Clusters | None) -> Clusters | None:
    if f"{name}.centroids" not in tensors:
        return None
    parts = ("coarse_of", "spread")
    return Clusters(
        tensors[f"{name}.centroids"],
        tensors[f"{name}.counts"],
        coarse=coarse,
        **{part: tensors.get(f"{name}.{part}") for part in parts},
    )
