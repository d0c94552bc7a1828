"""BlockRank: documents of a prompt see the instruction and themselves, the query sees everything, and its attention
ranks them.

The layout comes with each forward, as the argument `block_ids`. A `SignalRecorder` given beside it collects the scores
that a few signal tokens of one layer give to all keys; their softmax over the documents' tokens, summed inside each
document, ranks the documents without decoding. Making prompts and training are elsewhere.

Source: arXiv 2510.05396, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention.lever import AttentionLever
from farspan.attention.segments import BlockLayout, LayoutError, segmented_attention
from farspan.attention.selection import Attended, AttentionContext

BLOCK_IDS = "block_ids"
SIGNAL = "signal"


class EnoughRead(Exception):
    """Leaves a forward whose signal is complete; caught by whoever asked for the signal."""


class SignalRecorder:
    """Scores of signal tokens in one layer, row by row.

    Parameters
    ----------
    layer : index of the layer
    positions : for each row of the batch the places of its signal tokens, padding counted
    stop : leave the forward with `EnoughRead` when all rows are there
    """

    def __init__(self, layer: int, positions: Sequence[Sequence[int]], *, stop: bool = False) -> None:
        self.layer = layer
        self.positions = positions
        self.stop = stop
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    def take(self, query: Tensor, key: Tensor, block_ids: Tensor, context: AttentionContext) -> None:
        """Record one row. A second visit, as recomputing activations makes it, computes the same and changes nothing.

        query : Tensor [1, Hq, L, D]; key : Tensor [1, Hkv, L, D]; block_ids : Tensor int [L]
        """
        if context.layer_idx != self.layer:
            return
        places = [place - context.start for place in self.positions[context.row]]
        if min(places) < 0 or max(places) >= query.shape[2]:
            raise LayoutError(f"row {context.row}: its signal tokens lie outside its {query.shape[2]} tokens")
        logits = attention_signal_logits(query, key, places, context.scaling)
        self._found.setdefault(context.row, (logits, block_ids))
        if self.stop and len(self._found) == len(self.positions):
            raise EnoughRead

    def scores(self) -> Tensor:
        """Scores of the documents [B, N], rows with fewer of them filled up with 0.

        Raises
        ------
        LayoutError : a row was not attended with a layout in that layer.
        """
        if len(self._found) != len(self.positions):
            raise LayoutError(
                f"layer {self.layer} showed the signal of {len(self._found)} of {len(self.positions)} rows; "
                "is the lever 'blockrank' on, and does the layer attend to the whole prompt?"
            )
        rows = [attention_scores_to_documents(logits, ids[None])[0] for _, (logits, ids) in sorted(self._found.items())]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


class BlockRank(AttentionLever):
    """Attends along the layout given as `block_ids`, dense where none is given.

    structure : `blocks` as above, `full` leaves attention dense and only records signals, for comparison
    """

    name: ClassVar[str] = "blockrank"

    min_length: Annotated[int, Field(ge=0)] = 0

    structure: Literal["blocks", "full"] = "blocks"

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Attended | str | None:
        given = context.arguments.get(BLOCK_IDS)
        if not isinstance(given, Tensor):
            return "no block layout"
        if context.stage != "prefill":
            return "tokens after the prompt"
        ids = given[context.row if len(given) > 1 else 0, context.start : context.stop]
        signal = context.arguments.get(SIGNAL)
        if isinstance(signal, SignalRecorder):
            signal.take(query, key, ids, context)
        if self.structure == "full":
            return "full attention asked for"
        if context.arguments.get("s_aux") is not None:
            return "sinks"
        layout = BlockLayout(ids)
        output = segmented_attention(query[0], key[0], value[0], layout, scaling=context.scaling)[None]
        kept, causal = (torch.full((1,), float(cells), dtype=torch.float64) for cells in layout.cells())
        return Attended(output, None, kept, causal, "segments")


@contextmanager
def block_layout(model: PreTrainedModel, block_ids: Tensor, signal: SignalRecorder | None = None) -> Iterator[None]:
    """Give attention modules a layout, for models whose forward does not pass its arguments on.

    block_ids : Tensor int [B, L], as in `BlockLayout`
    """

    def add(
        module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return args, {**kwargs, BLOCK_IDS: block_ids, SIGNAL: signal}

    attending = [
        module
        for module in model.modules()
        if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "is_causal")
    ]
    handles = [module.register_forward_pre_hook(add, with_kwargs=True) for module in attending]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention_signal_logits(query: Tensor, key: Tensor, positions: Sequence[int], scaling: float) -> Tensor:
    """Scores of a few query rows with all keys: [B, Hq, rows, L] in float32, from [B, Hq, L, D] and [B, Hkv, L, D]."""
    rows = query[:, :, list(positions)]
    batch, heads, count, dim = rows.shape
    packed = rows.reshape(batch, key.shape[1], heads // key.shape[1] * count, dim)
    logits = (packed.float() @ key.float().transpose(-1, -2)) * scaling
    return logits.reshape(batch, heads, count, -1)


def attention_scores_to_documents(logits: Tensor, block_ids: Tensor) -> Tensor:
    """Share of attention each document gets, mean over heads and signal tokens.

    Parameters
    ----------
    logits : Tensor [B, Hq, T, L], scores of T signal tokens
    block_ids : Tensor int [B, L], documents are 1 to N

    Returns
    -------
    Tensor [B, N], each row sums to 1 over its documents; a document without tokens gets 0.

    Source: arXiv 2510.05396, section 3.2.
    """
    documents = block_ids > 0
    weights = logits.float().masked_fill(~documents[:, None, None], -torch.inf).softmax(-1).mean((1, 2))
    number = int(block_ids.max()) if block_ids.numel() else 0
    shares = weights.new_zeros(len(logits), max(0, number) + 1)
    shares = shares.scatter_add(1, block_ids.clamp(min=0).long(), weights.masked_fill(~documents, 0.0))
    return shares[:, 1:]


def block_infonce(scores: Tensor, answer_ids: Tensor, temperature: float = 0.05) -> tuple[Tensor, Tensor]:
    """Contrastive loss that draws attention to the relevant documents.

    Parameters
    ----------
    scores : Tensor [B, N], shares of attention
    answer_ids : Tensor int [B, A], relevant documents from 0, filled up with -1

    Returns
    -------
    (loss, accuracy) : mean over rows of minus the log of the positives' share of the softmax over `scores /
        temperature`; share of rows whose best document is relevant

    Raises
    ------
    LayoutError : a row has no relevant document, or one that is not there.

    Source: arXiv 2510.05396, section 3.2.
    """
    if bool((answer_ids >= scores.shape[1]).any()) or bool((answer_ids < 0).all(-1).any()):
        raise LayoutError(f"every row needs a relevant document among its {scores.shape[1]}")
    positive = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    positive.scatter_(1, torch.where(answer_ids >= 0, answer_ids, scores.shape[1]), True)
    positive = positive[:, :-1]
    logits = scores / temperature
    loss = logits.logsumexp(-1) - logits.masked_fill(~positive, -torch.inf).logsumexp(-1)
    accuracy = positive.gather(1, logits.argmax(-1, keepdim=True)).float().mean()
    return loss.mean(), accuracy
