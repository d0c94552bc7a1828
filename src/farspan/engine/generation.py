"""Running one planned batch: prefill by groups, then decode all rows together.

The loop over steps is written out because every row must stop at its own end token, stop text, limit or window, and
because contexts are shared between rows. Each step is one call of the model's own forward. Planning, queues and the
store's lifetime are elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import LongTensor, Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from farspan.engine.batching import Batch, Group
from farspan.engine.cache import CacheError, SlotCache, SlotLayer
from farspan.engine.forward import Forward, UnsupportedModel, left_padded
from farspan.engine.prefix import PrefixStore, prefix_key
from farspan.engine.request import Request, Result, StopReason, TokenLogprob, Usage
from farspan.engine.sampling import Sampler, token_logprobs


@dataclass
class EngineStats:
    """What an engine did since it was made.

    prefill_tokens, shared_tokens : prompt tokens computed, and taken from a context that was there already
    decode_steps : forwards of one token a row
    batches, largest_batch : batches run, and rows of the largest
    """

    prefill_tokens: int = 0
    shared_tokens: int = 0
    decode_steps: int = 0
    batches: int = 0
    largest_batch: int = 0


@dataclass
class Row:
    """A request while it is worked on.

    prefix : tokens of its context, 0 for none
    budget : tokens it may still be given, by its own limit and by the window
    full : the reason to report when the budget is used up
    """

    request: Request
    prefix: int
    budget: int
    full: StopReason
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: StopReason | None = None
    cached: int = 0
    seconds: float = 0.0


class Generation:
    """Generates with one model and tokenizer.

    Parameters
    ----------
    model, tokenizer : levers, if any, are on already
    store : contexts that were prefilled before
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, store: PrefixStore) -> None:
        self.forward = Forward(model)
        self.tokenizer = tokenizer
        self.store = store
        self.stats = EngineStats()
        self.shares = False
        self.follow_model()
        self._ends = _end_tokens(model, tokenizer)

    def follow_model(self) -> None:
        """See which cache the model takes as it stands; to be called after levers were switched."""
        self.shares = SlotCache.fits(self.forward.config) and self.forward.grows_evenly

    @torch.no_grad()
    def run(self, rows: Sequence[Row], batch: Batch) -> None:
        """Generate for the rows of a batch, in the order of the batch; results are left in the rows."""
        started = time.perf_counter()
        self.stats.batches += 1
        self.stats.largest_batch = max(self.stats.largest_batch, len(rows))
        config = self.forward.config
        slots = batch.length + batch.new_tokens
        cache = SlotCache(config, len(rows), slots) if self.shares else self.forward.fresh_cache()
        if isinstance(cache, SlotCache):
            self._place_contexts(cache, rows, batch)
        logits = torch.cat([self._prefill(cache, rows, group, batch) for group in batch.groups])
        if isinstance(cache, SlotCache):
            cache.filled(batch.length)
        self._decode(cache, rows, batch, logits, started)

    def copied(self, cache: Cache, length: int) -> SlotCache:
        """A context that another cache holds in its one row, in slots.

        Raises
        ------
        UnsupportedModel : the model's cache cannot begin in the middle of a row. CacheError : the cache is not of this
            length or of this model.
        """
        if not self.shares:
            raise UnsupportedModel("this model's cache cannot be begun in the middle of a row; no context can be kept")
        slots = SlotCache(self.forward.config, 1, length)
        if len(cache.layers) != len(slots.layers):
            raise CacheError(f"the context has {len(cache.layers)} layers, the model {len(slots.layers)}")
        for own, other in zip(slots.layers, cache.layers, strict=True):
            if not isinstance(own, SlotLayer):
                continue
            keys, values = getattr(other, "keys", None), getattr(other, "values", None)
            if keys is None or values is None or len(keys) != 1 or keys.shape[2] != length:
                raise CacheError(
                    f"a context of {length} tokens needs keys of one row and {length} tokens in each layer"
                )
            own.update(keys.to(self.forward.device), values.to(self.forward.device))
        return slots

    def result(self, row: Row, queue_seconds: float) -> Result:
        """The finished row as the caller sees it."""
        request = row.request
        return Result(
            ids=row.ids,
            text=self._text(request, row.ids),
            stop_reason=row.reason or row.full,
            usage=Usage(len(request.ids) - row.cached, row.cached, len(row.ids)),
            logprobs=row.logprobs if request.logprobs else None,
            seconds=row.seconds,
            queue_seconds=queue_seconds,
        )

    def _place_contexts(self, cache: SlotCache, rows: Sequence[Row], batch: Batch) -> None:
        families: dict[bytes, list[int]] = {}
        for index, row in enumerate(rows):
            if row.prefix:
                families.setdefault(prefix_key(row.request.ids, row.prefix), []).append(index)
        for key, members in families.items():
            first = rows[members[0]]
            context, computed = self._context(key, first.request.ids[: first.prefix])
            cache.place(context, members, [batch.length - len(rows[index].request.ids) for index in members])
            for index in members:
                rows[index].cached = rows[index].prefix
                self.stats.shared_tokens += rows[index].prefix
            # Whoever comes first pays for what was computed.
            first.cached -= computed
            self.stats.shared_tokens -= computed

    def _context(self, key: bytes, ids: Sequence[int]) -> tuple[SlotCache, int]:
        """A context's cache, and how many of its tokens had to be computed."""
        kept = self.store.get(key)
        if kept is not None:
            return kept, 0
        cache = SlotCache(self.forward.config, 1, len(ids))
        begun = self.store.longest_kept(ids, len(ids)) if self.store.extend else None
        done = 0
        if begun is not None:
            done, earlier = begun
            cache.place(earlier, [0], [0])
            cache.filled(done)
        inputs, _, positions = left_padded([ids[done:]], self.forward.device)
        self.forward(inputs, cache, None, positions + done)
        self.stats.prefill_tokens += len(ids) - done
        self.store.put(key, cache, len(ids))
        return cache, len(ids) - done

    def _prefill(self, cache: Cache, rows: Sequence[Row], group: Group, batch: Batch) -> Tensor:
        """Logits [rows of the group, vocabulary] after the last prompt token."""
        members = rows[group.start : group.stop]
        if isinstance(cache, SlotCache):
            start = batch.length - group.prefix - group.width
            cache = cache.view(slice(group.start, group.stop), start, group.prefix)
        ids, mask, positions = left_padded([row.request.ids[group.prefix :] for row in members], self.forward.device)
        self.stats.prefill_tokens += sum(len(row.request.ids) - group.prefix for row in members)
        return self.forward(ids, cache, mask, positions + group.prefix)[:, -1].float()

    def _decode(self, cache: Cache, rows: Sequence[Row], batch: Batch, logits: Tensor, started: float) -> None:
        device = logits.device
        lengths = torch.tensor([len(row.request.ids) for row in rows], device=device)
        # A row that is done goes on beside the others; its positions must not leave the window meanwhile.
        last = lengths + torch.tensor([row.budget for row in rows], device=device) - 1
        mask = _padding_mask(lengths, batch, device)
        sampler = Sampler([row.request for row in rows], device)
        live = list(range(len(rows)))
        active = list(rows)
        step = 0
        while True:
            chosen = sampler.choose(logits)
            wanted = sampler.sampling.logprobs
            details = token_logprobs(logits, chosen, wanted) if wanted else []
            tokens = chosen.tolist()
            for index in live:
                self._take(active[index], tokens[index], details[index] if wanted else None)
                if active[index].reason is not None:
                    active[index].seconds = time.perf_counter() - started
            live = [index for index in live if active[index].reason is None]
            if not live:
                return
            if 2 * len(live) <= len(active):
                keep = torch.tensor(live, device=device)
                cache.reorder_cache(cast(LongTensor, keep))
                sampler.keep_rows(live)
                chosen, lengths, last = chosen[keep], lengths[keep], last[keep]
                mask = None if mask is None else mask[keep]
                active = [active[index] for index in live]
                live = list(range(len(active)))
            seen = None if mask is None else mask[:, : batch.length + step + 1]
            positions = torch.minimum(lengths + step, last)
            logits = self.forward(chosen[:, None], cache, seen, positions[:, None])[:, -1].float()
            step += 1
            self.stats.decode_steps += 1

    def _take(self, row: Row, token: int, detail: TokenLogprob | None) -> None:
        row.ids.append(token)
        if detail is not None:
            row.logprobs.append(detail)
        if token in self._ends or (row.request.stop and self._ends_with_stop(row)):
            row.reason = "stop"
        elif len(row.ids) >= row.budget:
            row.reason = row.full

    def _ends_with_stop(self, row: Row) -> bool:
        # A character is at most four bytes and a token at least one, so this tail holds every stop text that the
        # newest token can complete; decoding all of a long answer at every step would be quadratic.
        tail = max(len(text.encode()) for text in row.request.stop) + 4
        text = self._decoded(row.ids[-tail:])
        return any(stop in text for stop in row.request.stop)

    def _text(self, request: Request, ids: Sequence[int]) -> str:
        """The continuation as text; tokenizers that drop a leading space are given the prompt's last token for it."""
        before = self._decoded(request.ids[-1:])
        both = self._decoded([request.ids[-1], *ids])
        text = both[len(before) :] if both.startswith(before) else self._decoded(ids)
        cuts = [position for stop in request.stop if (position := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    def _decoded(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _padding_mask(lengths: Tensor, batch: Batch, device: torch.device) -> Tensor | None:
    """Tensor [rows, length + new_tokens], 0 on the padding before a row's first token; None if nothing is padded."""
    if bool((lengths == batch.length).all()):
        return None
    slots = torch.arange(batch.length + batch.new_tokens, device=device)
    return (slots[None, :] >= batch.length - lengths[:, None]).long()


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [configured] if isinstance(configured, int) else list(configured or [])
    return frozenset(int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None)
