"""What LongRoPE's search makes small: perplexity of long documents, the model frozen.

Documents are token ids; where they come from is the caller's business.

Source: arXiv 2402.13753, section 3.2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import applied
from farspan.positions.longrope import LongRope
from farspan.positions.longrope_search import (
    Factors,
    Score,
    SearchResult,
    SearchSettings,
    analytic_starts,
    search_factors,
)
from farspan.positions.rope import get_rope

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def sliding_loss(model: PreTrainedModel, ids: torch.Tensor, window: int, stride: int = 256) -> tuple[float, int]:
    """Summed loss of a document read through a window that moves on by `stride` tokens.

    The first window counts all its tokens, each later one those that are new.

    Parameters
    ----------
    ids : Tensor [length], more than one token

    Returns
    -------
    (nats, number of tokens they are summed over)
    """
    total, count, done = 0.0, 0, 1
    while done < len(ids):
        end = min(max(window, done + stride), len(ids)) if done > 1 else min(window, len(ids))
        start = max(0, end - window)
        with torch.no_grad():
            logits = model(input_ids=ids[start:end][None].to(model.device), use_cache=False).logits[0]
        new = end - done
        # The last logit of a window is about a token outside it.
        picked = logits[-new - 1 : -1].float()
        targets = ids[done:end].to(picked.device)
        total += float(torch.nn.functional.cross_entropy(picked, targets, reduction="sum"))
        count += new
        done = end
    return total, count


def perplexity_score(
    model: PreTrainedModel,
    documents: Sequence[torch.Tensor],
    target_length: int,
    *,
    stride: int = 256,
    attention_factor: float | None = None,
    layer_type: str | None = None,
) -> Score:
    """A score for `search_factors`: perplexity of documents with the divisors switched on.

    Parameters
    ----------
    documents : Tensors [length] of token ids, each of at least `target_length` tokens
    stride : see `sliding_loss`
    attention_factor, layer_type : as of the lever `longrope`

    Raises
    ------
    LeverNotApplicable : no document, or one that is too short.
    """
    shortest = min((len(ids) for ids in documents), default=0)
    if shortest < max(2, target_length):
        raise LeverNotApplicable(
            f"a search for {target_length} tokens needs documents at least that long; the shortest of "
            f"{len(documents)} has {shortest}"
        )
    factor = target_length / get_rope(model.config, layer_type).target_length

    def score(factors: Factors) -> float:
        lever = LongRope(factor=factor, factors=factors, attention_factor=attention_factor, layer_type=layer_type)
        with applied(model, lever.plan(model.config)):
            sums = [sliding_loss(model, ids, target_length, stride) for ids in documents]
        loss = sum(nats for nats, _ in sums) / sum(count for _, count in sums)
        return math.exp(loss) if loss < 700 else math.inf

    return score


def search_longrope(
    model: PreTrainedModel,
    documents: Sequence[torch.Tensor],
    target_length: int,
    settings: SearchSettings | None = None,
    *,
    stride: int = 256,
    attention_factor: float | None = None,
    layer_type: str | None = None,
    budget_evals: int | None = None,
    deadline: float | None = None,
    journal: str | Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[LongRope, SearchResult]:
    """Search the divisors with which a frozen model reads documents of the target length best.

    Returns
    -------
    The lever `longrope` with the best divisors, and how it was found. Parameters and errors are those of
    `perplexity_score` and `search_factors`.
    """
    rope = get_rope(model.config, layer_type)
    if target_length <= rope.target_length:
        raise LeverNotApplicable(
            f"target length {target_length} is not above the model's window of {rope.target_length} tokens; "
            "choose a longer one"
        )
    factor = target_length / rope.target_length
    score = perplexity_score(
        model, documents, target_length, stride=stride, attention_factor=attention_factor, layer_type=layer_type
    )
    found = search_factors(
        score,
        analytic_starts(rope, factor),
        factor,
        settings,
        budget_evals=budget_evals,
        deadline=deadline,
        journal=journal,
        subject=f"perplexity {stride} {attention_factor} {layer_type} {_fingerprint(model, documents)}",
        progress=progress,
    )
    lever = LongRope(factor=factor, factors=found.factors, attention_factor=attention_factor, layer_type=layer_type)
    return lever, found


def _fingerprint(model: PreTrainedModel, documents: Sequence[torch.Tensor]) -> str:
    """Tells texts apart, and models by a part of their weights."""
    digest = hashlib.blake2b(digest_size=8)
    for ids in documents:
        digest.update(ids.cpu().long().numpy().tobytes())
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()
