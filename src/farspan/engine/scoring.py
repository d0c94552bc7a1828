"""Log-probabilities of given texts, without ever holding the logits of all their positions.

The decoder runs once over whole rows; the head is applied to blocks of positions. Whether head(decoder(ids)) is what
the model's own forward computes (some cap or scale their logits after the head) is checked on a few tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from farspan.engine.batching import Work, plan
from farspan.engine.forward import Forward, left_padded

BLOCK_LOGITS = 2**22


class Scorer:
    """Scores texts with one model.

    Parameters
    ----------
    forward : the model
    block_logits : logits held at once, positions times vocabulary
    """

    def __init__(self, forward: Forward, block_logits: int = BLOCK_LOGITS) -> None:
        self.model: PreTrainedModel = forward.model
        self.device = forward.device
        self.takes_keep = forward.takes_keep
        self.block_logits = block_logits
        self._plain_head: bool | None = None

    @torch.no_grad()
    def score(self, texts: Sequence[Sequence[int]], max_batch_tokens: int) -> list[list[float]]:
        """Natural-log probability of tokens 1 to n-1 of each text, given all tokens before.

        Returns
        -------
        list of n-1 values a text; empty for a text of one token or none
        """
        scores: list[list[float]] = [[] for _ in texts]
        long_enough = [index for index, text in enumerate(texts) if len(text) > 1]
        works = [Work(length=len(texts[index]), new_tokens=0) for index in long_enough]
        for batch in plan(works, max_batch_tokens, merge=False):
            members = [long_enough[row] for row in batch.order]
            ids, mask, positions = left_padded([texts[member] for member in members], self.device)
            values = self._targets(ids, mask, positions)
            for member, row in zip(members, values.tolist(), strict=True):
                scores[member] = row[len(row) - len(texts[member]) + 1 :]
        return scores

    def _targets(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        """Log-probabilities [rows, width - 1] of each row's tokens 1 to width-1; those of padding mean nothing."""
        targets = ids[:, 1:]
        values = torch.empty(targets.shape, dtype=torch.float32, device=ids.device)
        head = self.model.get_output_embeddings()
        block = max(1, self.block_logits // (head.weight.shape[0] * len(ids)))
        plain = self._has_plain_head(ids)
        hidden = self._hidden(ids, mask, positions) if plain else None
        for start in range(0, targets.shape[1], block):
            stop = min(start + block, targets.shape[1])
            if hidden is not None:
                logits = head(hidden[:, start:stop])
            else:
                logits = self._whole(ids, mask, positions, start, stop)
            losses = functional.cross_entropy(
                logits.float().flatten(0, 1), targets[:, start:stop].flatten(), reduction="none"
            )
            values[:, start:stop] = -losses.view(len(ids), -1)
        return values

    def _hidden(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        hidden: Tensor = self.model.base_model(
            input_ids=ids, **_given(mask, positions), use_cache=False
        ).last_hidden_state
        return hidden

    def _whole(self, ids: Tensor, mask: Tensor | None, positions: Tensor, start: int, stop: int) -> Tensor:
        if not self.takes_keep:
            logits: Tensor = self.model(input_ids=ids, **_given(mask, positions), use_cache=False).logits
            return logits[:, start:stop]
        rows = torch.arange(start, stop, device=ids.device)
        kept: Tensor = self.model(input_ids=ids, **_given(mask, positions), use_cache=False, logits_to_keep=rows).logits
        return kept

    def _has_plain_head(self, ids: Tensor) -> bool:
        if self._plain_head is None:
            probe = ids[:1, :8]
            whole = self.model(input_ids=probe, use_cache=False).logits
            hidden = self.model.base_model(input_ids=probe, use_cache=False).last_hidden_state
            composed = self.model.get_output_embeddings()(hidden)
            self._plain_head = whole.shape == composed.shape and torch.allclose(
                whole.float(), composed.float(), rtol=1e-5, atol=1e-6
            )
        return self._plain_head


def _given(mask: Tensor | None, positions: Tensor) -> dict[str, Tensor]:
    # Without padding, positions that are given make transformers look for packed documents and build a full mask.
    return {} if mask is None else {"attention_mask": mask, "position_ids": positions}
