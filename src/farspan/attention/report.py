"""What attention did while a lever was on, and how much of the true attention a plan holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention.plan import BlockPlan
from farspan.attention.state import ATTRIBUTE, LayerState, LayerStats
from farspan.errors import FarspanError


def attention_report(model: PreTrainedModel) -> list[LayerStats]:
    """Per layer: densities, times, executors, and fallbacks to dense attention with their reasons.

    Call it while the lever is on; layers whose attention has not run are left out.

    Raises
    ------
    FarspanError : no attention lever is on.
    """
    states = [state for module in model.modules() if isinstance(state := vars(module).get(ATTRIBUTE), LayerState)]
    if not states:
        raise FarspanError("no attention lever is on; ask for the report inside `with lever(model):`")
    reports = [deepcopy(state.stats) for state in states if state.stats.calls]
    return sorted(reports, key=lambda stats: stats.layer)


def permutation_shares(reports: Sequence[LayerStats]) -> dict[str, float]:
    """Shares of heads that sorting keys helped, left unchanged and harmed, from reports of permuted attention.

    A head is helped if it would need more blocks without sorting. Heads that opt out count as what they were found to
    be.

    Returns
    -------
    `{"helped": share, "unchanged": share, "harmed": share}`

    Raises
    ------
    FarspanError : nothing was compared; leave `head_opt_out` on.

    Source: arXiv 2510.21270.
    """
    ratios = [ratio for stats in reports for ratio in stats.figures.get("blocks_without_permutation", ())]
    if not ratios:
        raise FarspanError("no head was read with and without sorting; run 'pbs' with head_opt_out=auto first")
    helped, harmed = (sum(ratio > 1.0 for ratio in ratios), sum(ratio < 1.0 for ratio in ratios))
    whole = len(ratios)
    return {"helped": helped / whole, "unchanged": (whole - helped - harmed) / whole, "harmed": harmed / whole}


def summary(reports: Sequence[LayerStats]) -> list[str]:
    """The reports of all layers in a few lines: what was read, by which executors, how long choosing took, and why not.

    Returns
    -------
    Lines for people; the first one always comes, the others where there is something to say.
    """
    sparse = [stats for stats in reports if stats.sparse]
    calls = sum(stats.calls for stats in reports)
    if not sparse:
        lines = [f"attention: dense in all {calls} calls"]
    else:
        densities = [stats.density for stats in sparse]
        lines = [
            f"attention by {sparse[0].method}: {sum(densities) / len(densities):.1%} of the cells read in "
            f"{sum(stats.sparse for stats in sparse)} of {calls} calls (layers {min(densities):.1%} to "
            f"{max(densities):.1%}), by {_counted(sum((stats.backends for stats in sparse), Counter()))}"
        ]
        choosing = sum(stats.selection_seconds for stats in sparse)
        whole = choosing + sum(stats.execution_seconds for stats in sparse)
        saved = sum(stats.flops for stats in sparse) / max(sum(stats.dense_flops for stats in sparse), 1.0)
        dense_bytes = sum(stats.dense_kv_bytes for stats in sparse)
        read = f" and {sum(stats.kv_bytes for stats in sparse) / dense_bytes:.1%} of its reads" if dense_bytes else ""
        lines.append(
            f"attention: choosing took {choosing / whole if whole else 0.0:.1%} of its time; "
            f"{saved:.1%} of dense attention's operations{read}"
        )
    if decode := sum(stats.decode for stats in reports):
        lines.append(f"attention: dense in {decode} calls with a single new token")
    fallbacks: Counter[str] = sum((stats.fallbacks for stats in reports), Counter())
    if fallbacks:
        lines.append(f"attention: dense because of {_counted(fallbacks)}")
    return lines


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common())


def coverage(
    query: Tensor,
    key: Tensor,
    plan: BlockPlan,
    *,
    rows: int = 64,
    scaling: float | None = None,
    seed: int = 0,
    whole: Tensor | None = None,
) -> Tensor:
    """Share of the true attention mass that kept blocks and columns hold, averaged over sampled rows: Tensor [B, Hq].

    query : Tensor [B, Hq, q_len, D]; key : Tensor [B, Hkv or Hq, kv_len, D] in the plan's order
    rows : sampled query rows; the cost is that of so many tokens of dense attention
    whole : Tensor [B, Hkv, L, D], the keys in their own order, where the plan stores some twice or not at all
    """
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(plan.q_len, generator=generator)[:rows].sort().values.to(query.device)
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    some, at = query[:, :, picked].float(), plan.query_positions[picked][:, None]

    def scores(keys: Tensor, positions: Tensor) -> Tensor:
        spread = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1).float()
        found: Tensor = some @ spread.transpose(-1, -2) * factor
        return found.masked_fill(positions > at, -torch.inf)

    positions = plan.positions.repeat_interleave(query.shape[1] // plan.positions.shape[1], dim=1)[..., : plan.kv_len]
    logits = scores(key, positions[:, :, None])
    every = logits if whole is None else scores(whole, torch.arange(whole.shape[2], device=query.device))
    total = every.logsumexp(-1, keepdim=True)
    mass = (logits - total.masked_fill(total == -torch.inf, 0.0)).exp()
    blocks = plan.block_mask().repeat_interleave(query.shape[1] // plan.selections, dim=1)[:, :, picked // plan.block_q]
    kept = blocks.repeat_interleave(plan.block_k, dim=-1)[..., : plan.kv_len]
    if plan.col_ptr is not None:
        lines = plan.column_mask(picked // plan.block_q)
        kept = kept | lines.repeat_interleave(query.shape[1] // plan.selections, dim=1)
    share: Tensor = (mass * kept).sum(-1).mean(-1)
    return share
