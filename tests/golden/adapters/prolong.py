"""ProLong's rule for the rotary base and its learning-rate schedule; cases are told apart by their names."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

DEFAULT = "by_name"


def suggested_rope_base(case: dict[str, Any]) -> None:
    from farspan.positions import suggest_rope_base

    given = case["input"]
    found = suggest_rope_base(given["base"], given["scale"], given["head_dim"], given.get("multiplier", 1.0))
    assert_close(found, case["expected"], rtol=1e-9)


def lr_schedule(case: dict[str, Any]) -> None:
    from farspan.training.trainer import cosine

    given = case["input"]
    found = [
        given["peak_lr"] * cosine(step, given["warmup_steps"], given["total_steps"], given["min_lr_ratio"])
        for step in given["steps"]
    ]
    assert_close(found, case["expected"], rtol=1e-9, atol=1e-18)


NAMED = {"suggested_rope_base": suggested_rope_base, "lr_schedule": lr_schedule}


def by_name(case: dict[str, Any]) -> None:
    name = str(case["name"])
    if name not in NAMED:
        raise AssertionError(f"no adapter for {name}")
    NAMED[name](case)


ADAPTERS = {**NAMED, "by_name": by_name}
