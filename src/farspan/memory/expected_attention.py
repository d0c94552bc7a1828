"""Expected attention: keys are kept by the attention that queries still to come can be expected to pay them.

Queries of a head, before rotation, are much alike along a text. Their mean and covariance over the last ones seen,
rotated by an average over the positions that come next, describe the queries to come; the expectation of the
exponential of a score has a closed form if they are normal. What a key is worth also depends on the size of its value.
No attention weights are needed and no particular query is asked.

Source: arXiv 2510.00636, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from farspan.errors import LeverNotApplicable
from farspan.memory.eviction import Stored, Turning
from farspan.memory.lever import BudgetedEviction
from farspan.positions.rerotate import rotate_keys
from farspan.positions.rope import get_rope

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ExpectedAttention(BudgetedEviction):
    """Keeps the keys with the largest expected attention times value.

    window : last queries that tell what queries are like
    future : positions ahead over which the rotation is averaged
    sinks : first tokens that are always kept
    covariance : count the spread of queries, and not their mean alone
    """

    name: ClassVar[str] = "expected-attention"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    window: Annotated[int, Field(ge=2)] = 256
    future: Annotated[int, Field(ge=1)] = 512
    sinks: Annotated[int, Field(ge=0)] = 4
    covariance: bool = True

    def check(self, config: PretrainedConfig) -> None:
        super().check(config)
        text = config.get_text_config(decoder=True)
        get_rope(text)
        if getattr(text, "qk_rope_head_dim", None):
            raise LeverNotApplicable(f"lever '{self.name}' cannot turn queries that are rotated in their last channels")

    def score(self, stored: Stored) -> Tensor:
        if stored.queries is None or stored.turning is None:
            raise RuntimeError("the queries of the prompt, or how they are rotated, were not seen")
        return expected_scores(
            stored.queries,
            stored.keys,
            stored.values,
            tokens=stored.tokens,
            turning=stored.turning,
            valid=stored.valid,
            future=self.future,
            sinks=self.sinks,
            covariance=self.covariance,
            scaling=stored.scaling,
        )

    @property
    def asked(self) -> int:
        return self.window

    @property
    def turns(self) -> bool:
        return True


def expected_scores(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    tokens: Tensor,
    turning: Turning,
    valid: Tensor,
    future: int = 512,
    sinks: int = 4,
    covariance: bool = True,
    scaling: float | None = None,
) -> Tensor:
    """Expected attention to each key times the norm of its value; +inf for the first tokens.

    Parameters
    ----------
    query : Tensor [B, Hq, n, D], rotated, the last ones seen; key, value : Tensor [B, Hkv, S, D]
    tokens : Tensor int64 [B, 1], tokens each row has seen; the last query stands at `tokens - 1`
    turning : how queries are rotated
    valid : Tensor bool [B, Hkv or 1, S], keys that count; the last n tell which queries count

    Returns
    -------
    Tensor float32 [B, Hkv, S]

    Source: arXiv 2510.00636, section 3.2.
    """
    batch, heads, count, dim = query.shape
    kv_heads, scale = key.shape[1], dim**-0.5 if scaling is None else scaling
    device = query.device
    positions = (tokens.to(device) - count + torch.arange(count, device=device)).clamp(min=0)
    plain = rotate_keys(query.float(), positions, -turning.inv_freq, turning.interleaved)
    ahead = _turned_on_average(plain, tokens.to(device), turning, future)
    counts = valid[:, :1, -count:].to(ahead.dtype)[..., None]
    if counts.shape[2] < count:  # fewer keys are stored than queries were seen
        counts = torch.nn.functional.pad(counts, (0, 0, count - counts.shape[2], 0), value=1.0)
    number = counts.sum(2, keepdim=True).clamp(min=1)
    mean = (ahead * counts).sum(2, keepdim=True) / number
    keys = key.float().repeat_interleave(heads // kv_heads, dim=1)
    scores = (keys @ mean.transpose(-1, -2)).squeeze(-1) * scale
    if covariance:
        apart = (ahead - mean) * counts
        spread = apart.transpose(-1, -2) @ apart / number
        scores = scores + ((keys @ spread) * keys).sum(-1) * (0.5 * scale**2)
    shown = valid.repeat_interleave(heads // valid.shape[1], dim=1)
    shares = scores.masked_fill(~shown, -torch.inf).softmax(-1).nan_to_num(0.0)
    worth = shares.view(batch, kv_heads, -1, key.shape[2]).mean(2) * value.float().norm(dim=-1)
    first = valid & (valid.cumsum(-1) <= sinks)
    kept: Tensor = worth.masked_fill(first, torch.inf)
    return kept


def _turned_on_average(plain: Tensor, tokens: Tensor, turning: Turning, future: int) -> Tensor:
    """Queries [B, H, n, D] rotated by the mean of the rotations at the next positions of each row, tokens [B, 1].

    A mean of rotations is a shorter rotation: pairs that turn often within the stretch come out near zero.
    """
    steps = torch.arange(future, device=plain.device, dtype=torch.float64)
    angles = (tokens.double() + steps)[..., None] * turning.inv_freq.to(plain.device).double()
    cos, sin = (x.mean(1).float()[:, None, None] for x in (angles.cos(), angles.sin()))
    pairs, turned = cos.shape[-1], plain.clone()
    places = (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
    if not turning.interleaved:
        places = (slice(0, pairs), slice(pairs, 2 * pairs))
    first, second = (plain[..., place] for place in places)
    turned[..., places[0]] = first * cos - second * sin
    turned[..., places[1]] = second * cos + first * sin
    return turned
