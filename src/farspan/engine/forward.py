"""A model's own forward, called the one way the engine needs it.

Attention levers act through `attn_implementation` and position levers through the rotary module, so nothing here
looks inside a model: ids, cache, mask and positions go in, logits come out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from farspan.errors import FarspanError


class UnsupportedModel(FarspanError):
    """A model that the engine cannot drive."""


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode inside, the mode it was found in outside."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


class Forward:
    """Calls `model.forward` with a cache.

    Raises
    ------
    UnsupportedModel : the model takes no cache, or is no decoder with a language model head.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        names = inspect.signature(model.forward).parameters
        cache_names = [name for name in ("past_key_values", "cache_params") if name in names]
        if not cache_names or model.config.is_encoder_decoder or model.get_output_embeddings() is None:
            raise UnsupportedModel(
                f"{type(model).__name__} cannot be run here; use a decoder with a language model head and a cache"
            )
        self._cache_name = cache_names[0]
        self._takes_positions = "position_ids" in names
        self.takes_keep = "logits_to_keep" in names

    @property
    def config(self) -> PretrainedConfig:
        """Configuration of the text decoder."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def device(self) -> torch.device:
        """Where ids must be."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.device

    @property
    def grows_evenly(self) -> bool:
        """Whether each token read adds one place to every layer's cache, and nothing takes places away.

        Not so where a lever or a kvpress press watches attention modules, which it does to drop tokens, or has put
        layers with a recurrent state in their place.
        """
        return not any(module._forward_hooks or hasattr(module, "fresh_cache") for module in self._attending())

    def fresh_cache(self) -> Cache:
        """An empty cache as the model takes it: what layers with a state of their own ask for, else transformers'.

        Raises
        ------
        UnsupportedModel : the model insists on a cache whose rows cannot be chosen from.
        """
        for module in self._attending():
            if hasattr(module, "fresh_cache"):
                cache: Cache = module.fresh_cache()  # type: ignore[operator]
                return cache
        if self.config.model_type == "minimax":
            raise UnsupportedModel("MiniMax keeps a cache of its own kind; put the lever 'lightning' into the recipe")
        return DynamicCache(config=self.config)

    def _attending(self) -> Iterator[torch.nn.Module]:
        return (module for module in self.model.modules() if isinstance(getattr(module, "layer_idx", None), int))

    def __call__(
        self, ids: Tensor, cache: Cache, mask: Tensor | None = None, positions: Tensor | None = None, *, keep: int = 1
    ) -> Tensor:
        """Logits of the last `keep` of these tokens.

        Parameters
        ----------
        ids : Tensor [rows, width]
        cache : what came before; extended in place
        mask : Tensor [rows, cached + width], 1 for tokens and 0 for padding; None if there is no padding
        positions : Tensor [rows, width]; None counts on from the cache
        keep : 0 keeps all

        Returns
        -------
        Tensor [rows, keep, vocabulary]
        """
        arguments: dict[str, object] = {self._cache_name: cache, "use_cache": True, "attention_mask": mask}
        if self._takes_positions and positions is not None:
            arguments["position_ids"] = positions
        if self.takes_keep:
            arguments["logits_to_keep"] = keep
        logits: Tensor = self.model(input_ids=ids, **arguments).logits
        return logits if self.takes_keep else logits[:, -keep:]


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Ids of unequal length as one batch, flush right.

    Padding repeats a row's own first token: it is masked, and so no token enters that the row does not hold.

    Returns
    -------
    ids Tensor [rows, width], mask Tensor [rows, width] or None if nothing is padded, positions Tensor [rows, width]
    """
    lengths = [len(row) for row in rows]
    width = max(lengths)
    if min(lengths) == width:
        ids = torch.tensor([list(row) for row in rows], dtype=torch.long, device=device)
        return ids, None, torch.arange(width, device=device).expand(len(rows), width)
    ids = torch.tensor([[row[0]] * (width - len(row)) + list(row) for row in rows], dtype=torch.long, device=device)
    offsets = torch.tensor([width - length for length in lengths], device=device)[:, None]
    positions = torch.arange(width, device=device)[None, :] - offsets
    return ids, (positions >= 0).long(), positions.clamp(min=0)
