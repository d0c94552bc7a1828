"""Packing, document numbers, flat batches, the loss of a linear head and the plan of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.golden.compare import assert_close


def packing(strategy: str) -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        from farspan.training.data.packing import pack

        documents, start = [], 0
        for length in case["input"]["document_lengths"]:
            documents.append(list(range(start, start + length)))
            start += length
        rows = pack(documents, case["input"]["max_length"], strategy)  # type: ignore[arg-type]
        computed: dict[str, object] = {"input_ids": [[token for piece in row for token in piece] for row in rows]}
        if "seq_lengths" in case["expected"]:
            computed["seq_lengths"] = [[len(piece) for piece in row] for row in rows]
        assert computed == case["expected"]

    return check


def packed_sequence_indices(case: dict[str, Any]) -> None:
    import torch

    from farspan.training.data.packing import document_ids

    computed = document_ids(torch.tensor(case["input"]["position_ids"]))
    assert (None if computed is None else computed.tolist()) == case["expected"]


def flatten_batch(case: dict[str, Any]) -> None:
    import torch

    from farspan.training.data.packing import flatten_batch as compute

    computed = {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in compute(case["input"]["features"]).items()
    }
    assert computed == case["expected"]


def linear_cross_entropy(case: dict[str, Any]) -> None:
    import torch

    from farspan.training.loss import linear_cross_entropy_sum

    given = case["input"]
    rows, width, vocab = (torch.arange(given[name]).double() for name in ("tokens", "hidden", "vocab"))
    hidden = torch.sin(0.37 * rows[:, None] + 0.11 * width).requires_grad_()
    weight = torch.cos(0.23 * vocab[:, None] - 0.05 * width).requires_grad_()
    loss, valid = linear_cross_entropy_sum(hidden, weight, torch.tensor(given["targets"]), softcap=given.get("softcap"))
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    computed = {
        "loss_sum": loss.item(),
        "valid": int(valid),
        "hidden_grad_norm": hidden.grad.norm().item(),
        "weight_grad_norm": weight.grad.norm().item(),
    }
    assert_close(computed, case["expected"], rtol=1e-10)


def memory_plan(case: dict[str, Any]) -> None:
    from farspan.training.memory_plan import ModelShape
    from farspan.training.memory_plan import memory_plan as compute

    given = dict(case["input"])
    plan = compute(ModelShape(**given.pop("model")), **given)
    assert {name: getattr(plan, name) for name in case["expected"]} == case["expected"]


ADAPTERS = {
    "pack_bfd": packing("bfd"),
    "pack_bfd_split": packing("bfd_split"),
    "pack_wrapped": packing("wrapped"),
    "packed_sequence_indices": packed_sequence_indices,
    "flatten_batch": flatten_batch,
    "linear_cross_entropy": linear_cross_entropy,
    "memory_plan": memory_plan,
}
