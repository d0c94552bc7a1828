"""One layer's cache from which tokens were dropped, and which still knows where the others stand.

transformers takes the position of the next token from the length of the cache. A `PrunedLayer` therefore reports how
many tokens it has *seen*, and keeps for every stored key the slot it came from: the place it would have in a cache that
forgot nothing, padding included. Masks are made for that full cache and then cut to what is stored. It decides nothing
about what to drop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

EMPTY = -1


class PrunedLayer(DynamicLayer):
    """Keys and values of the kept tokens, in order, and their slots.

    keys, values : Tensor [B, Hkv, S, D]
    slots : Tensor int64 [B, Hkv or 1, S], ascending, beginning with `EMPTY` where a head or row stores less than
        others; None while nothing was dropped
    seen : tokens seen, padding included
    queries : Tensor [B, Hq, n, D] or None, the last queries, for methods that ask them
    since : single tokens added since the last pruning
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots: Tensor | None = None
        self.seen = 0
        self.queries: Tensor | None = None
        self.since = 0

    @classmethod
    def adopt(cls, layer: DynamicLayer) -> PrunedLayer:
        """The same contents in a layer that can be pruned."""
        adopted = cls()
        if layer.is_initialized:
            adopted.dtype, adopted.device = layer.dtype, layer.device
            adopted.keys, adopted.values = layer.keys, layer.values
            adopted.is_initialized = True
            adopted.seen = layer.get_seq_length()
        return adopted

    @property
    def stored(self) -> int:
        """Stored keys a row, those of the longest head."""
        return 0 if self.keys is None or self.keys.ndim < 3 else int(self.keys.shape[-2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append states; all stored keys and values."""
        count = key_states.shape[-2]
        if self.slots is not None:
            fresh = torch.arange(self.seen, self.seen + count, device=self.slots.device)
            self.slots = torch.cat([self.slots, fresh.expand(*self.slots.shape[:2], -1)], dim=-1)
        self.seen += count
        self.since = self.since + 1 if count == 1 else 0
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens seen, from which the next position follows."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Sizes of the mask of a cache that forgot nothing."""
        return self.seen + query_length, 0

    def keep(self, index: Tensor) -> None:
        """Keep some of the stored keys.

        index : Tensor int64 [B, Hkv or 1, K], ascending, shorter rows beginning with `EMPTY`, as `packed` gives it
        """
        assert self.keys is not None
        assert self.values is not None
        filled = index != EMPTY
        at = index.clamp(min=0)
        slots = (
            at
            if self.slots is None
            else self.slots.expand(-1, at.shape[1], -1).gather(-1, at.expand(len(self.slots), -1, -1))
        )
        self.slots = torch.where(filled, slots, EMPTY)
        self.keys, self.values = (
            states.gather(2, at.expand(*states.shape[:2], -1)[..., None].expand(-1, -1, -1, states.shape[-1]))
            for states in (self.keys, self.values)
        )
        self.since = 0

    def cut_mask(self, mask: Tensor | None, new: int) -> Tensor | None:
        """A mask for the full cache, cut to the stored keys and `new` tokens that are about to come.

        mask : None (causal), Tensor bool [B, seen + new] (causal, padding), or Tensor bool [B, 1, new, seen + new]

        Returns
        -------
        Tensor bool [B, Hkv or 1, new, stored + new], or None where a single token reads everything.
        """
        assert self.slots is not None
        batch, heads, _ = self.slots.shape
        at = self.slots.clamp(min=0)
        own = torch.ones(new, new, dtype=torch.bool, device=at.device).tril().expand(batch, heads, -1, -1)
        past = (self.slots != EMPTY)[:, :, None].expand(-1, -1, new, -1)
        if mask is not None and mask.ndim == 2:
            valid = mask.bool()
            seen = valid[:, None].expand(-1, heads, -1)
            past = past & seen.gather(-1, at)[:, :, None]
            own = own & valid[:, None, None, -new:]
        elif mask is not None:
            allowed = mask.expand(batch, heads, -1, -1)
            past = past & allowed.gather(-1, at[:, :, None].expand(-1, -1, new, -1))
            own = allowed[..., -new:]
        cut = torch.cat([past, own], dim=-1)
        return None if new == 1 and bool(cut.all()) else cut

    def valid(self, mask: Tensor | None) -> Tensor:
        """Stored keys that are tokens the last query may read: Tensor bool [B, Hkv or 1, stored].

        mask : as given to `cut_mask`, of the call that just ended
        """
        assert self.keys is not None
        if self.slots is None:
            rows = None if mask is None else mask if mask.ndim == 2 else mask[:, 0, -1]
            if rows is None:
                return torch.ones(self.keys.shape[0], 1, self.stored, dtype=torch.bool, device=self.keys.device)
            return rows.bool()[:, None, -self.stored :]
        past = self.slots != EMPTY
        if mask is None:
            return past
        rows = mask.bool() if mask.ndim == 2 else mask[:, 0, -1]
        return past & rows[:, None].expand(-1, past.shape[1], -1).gather(-1, self.slots.clamp(min=0))

    def remember(self, query: Tensor, count: int) -> None:
        """Keep the last `count` queries [B, Hq, n, D]."""
        last = query.detach()[:, :, -count:]
        if self.queries is not None and len(self.queries) == len(last) and last.shape[2] < count:
            last = torch.cat([self.queries, last], 2)[:, :, -count:]
        self.queries = last

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.slots, self.queries, self.seen, self.since = None, None, 0, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens seen; a negative number, as transformers passes it."""
        if tokens_to_remove > 0 or self.slots is None:
            super().crop(tokens_to_remove)
            self.seen = self.stored
            return
        self.seen += tokens_to_remove
        since = self.since
        self.keep(packed((self.slots != EMPTY) & (self.slots < self.seen)))
        self.since = since

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order."""
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._rows(lambda x: x[indices])

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.seen == 0 or self.keys is None or self.values is None:
            return
        self.keys, self.values = change(self.keys), change(self.values)
        self.slots = None if self.slots is None else change(self.slots)
        self.queries = None if self.queries is None else change(self.queries)


def packed(kept: Tensor) -> Tensor:
    """Indices of the true entries, flush right.

    kept : Tensor bool [B, H, S] -> Tensor int64 [B, H, longest row], ascending, shorter rows beginning with `EMPTY`
    """
    length = kept.shape[-1]
    index = torch.arange(length, device=kept.device).expand_as(kept)
    return torch.where(kept, index, EMPTY).sort(-1).values[..., length - int(kept.sum(-1).max()) :]
