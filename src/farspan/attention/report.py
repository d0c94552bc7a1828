"""What attention did while a lever was on, and how much of the true attention a plan holds."""

from __future__ import annotations

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


def coverage(
    query: Tensor, key: Tensor, plan: BlockPlan, *, rows: int = 64, scaling: float | None = None, seed: int = 0
) -> Tensor:
    """Share of the true attention mass that kept blocks and columns hold, averaged over sampled rows: Tensor [B, Hq].

    query : Tensor [B, Hq, q_len, D]; key : Tensor [B, Hkv, kv_len, D] in the plan's order, each key stored once
    rows : sampled query rows; the cost is that of so many tokens of dense attention
    """
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(plan.q_len, generator=generator)[:rows].sort().values.to(query.device)
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).float()
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query[:, :, picked].float() @ keys.transpose(-1, -2) * factor
    positions = plan.positions.repeat_interleave(query.shape[1] // plan.positions.shape[1], dim=1)[..., : plan.kv_len]
    reachable = positions[:, :, None] <= plan.query_positions[picked][:, None]
    mass = scores.masked_fill(~reachable, -torch.inf).softmax(-1).nan_to_num(0.0)
    blocks = plan.block_mask().repeat_interleave(query.shape[1] // plan.selections, dim=1)[:, :, picked // plan.block_q]
    kept = blocks.repeat_interleave(plan.block_k, dim=-1)[..., : plan.kv_len]
    if plan.col_ptr is not None:
        lines = plan.column_mask(picked // plan.block_q)
        kept = kept | lines.repeat_interleave(query.shape[1] // plan.selections, dim=1)
    share: Tensor = (mass * kept).sum(-1).mean(-1)
    return share
