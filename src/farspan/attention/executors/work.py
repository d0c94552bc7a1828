"""The order in which the tasks of a plan are worked on; shared by executors that start one program a task."""

from __future__ import annotations

import torch
from torch import Tensor

from farspan.attention.plan import BlockPlan


def heaviest_first(plan: BlockPlan, units: int) -> Tensor:
    """Tasks (batch, unit, query block) as numbers, those with most keys first: Tensor int32.

    Long tasks that start late would leave the other processors idle at the end.

    units : KV heads where the heads of a group share a selection, else query heads
    """
    work = (plan.full_num + plan.partial_num).float()
    if plan.col_ptr is not None:
        work = work + plan.col_ptr.diff().view_as(work) / plan.block_k
    unit = torch.arange(units, device=work.device) * plan.selections // units
    return work[:, unit].flatten().argsort(descending=True, stable=True).int()
