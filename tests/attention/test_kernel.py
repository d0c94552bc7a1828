"""The Triton kernels through Triton's interpreter and its compiler; skipped where Triton is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from farspan.attention import BackendRefused, block_sparse_attention
from farspan.attention.executors import kernel
from tests.attention.plans import full_plan, random_inputs

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: its kernels were not run"
)

AGREE = """
import torch
from farspan.attention import BlockPlan, block_sparse_attention
from farspan.attention.executors import triton_launch
from farspan.attention.executors.tiles import Tiles
from tests.attention.plans import random_inputs, random_keep

torch.set_num_threads(1)
SMALL = Tiles(32, 16, 4, 2)

def near(found, expected, limit):
    torch.testing.assert_close(found.float(), expected.float(), atol=limit, rtol=limit)

def gradients(inputs, plan, backend, weights):
    leaves = [x.clone().requires_grad_() for x in inputs]
    output, lse = block_sparse_attention(*leaves, plan, backend=backend, return_lse=True)
    loss = (output.float() * weights[0]).sum() + (lse.masked_fill(lse.isinf(), 0.0) * weights[1]).sum()
    loss.backward()
    return [x.grad for x in leaves]

# (query heads, KV heads, selections), (queries, earlier keys), blocks, orders, columns, padding, splits
PROBLEMS = [
    ((4, 2, 2), (50, 0), (16, 16), 2, True, True, 1),
    ((4, 2, 4), (37, 20), (32, 16), 0, True, False, 2),
    ((6, 2, 1), (64, 0), (16, 32), 2, False, False, 3),
    ((3, 1, 1), (1, 70), (32, 16), 1, True, True, 1),
    ((2, 2, 2), (33, 7), (16, 16), 0, False, True, 5),
]
for number, (heads, lengths, blocks, orders, columns, padded, splits) in enumerate(PROBLEMS):
    q_len, kv_len = lengths[0], sum(lengths)
    generator = torch.Generator().manual_seed(number)
    plan = BlockPlan.from_block_mask(
        random_keep(2, heads[2], q_len, kv_len, *blocks, seed=number),
        q_len=q_len, kv_len=kv_len, block_q=blocks[0], block_k=blocks[1],
        kv_start=torch.tensor([0, 5]) if padded else None,
        kv_len_per_row=torch.tensor([kv_len, kv_len - 3]) if padded else None,
        kv_pos=torch.rand(2, orders, kv_len, generator=generator).argsort(-1) if orders else None,
        columns=torch.randint(-1, kv_len, (2, 1, 9), generator=generator) if columns else None,
        allow_empty=True,
    )
    for dtype, limit in ((torch.float32, 1e-5), (torch.float16, 1e-2)):
        query, key, value = (x.to(dtype) for x in random_inputs(2, *heads[:2], q_len, kv_len, 20, seed=number))
        value = value[..., :12]
        expected, norm = block_sparse_attention(
            query.float(), key.float(), value.float(), plan, backend="reference", return_lse=True
        )
        output, lse = triton_launch.forward(query, key, value, plan, 20**-0.5, tiles=SMALL, splits=splits)
        assert output.dtype == dtype and lse.dtype == torch.float32
        near(output, expected, limit)
        near(lse, norm, limit)
        if splits > 2:
            continue
        weights = [torch.randn(x.shape, generator=generator) for x in (expected, norm)]
        found = gradients((query, key, value), plan, "triton", weights)
        wanted = gradients((query.float(), key.float(), value.float()), plan, "masked", weights)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == dtype
            near(one, other, 3 * limit)

print("agree")
"""

COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from farspan.attention.executors import triton_kernels, triton_key_kernels

def signature(names, dtype):
    kinds = dict.fromkeys(("q", "k", "v", "out", "d_out"), "*" + dtype)
    kinds |= dict.fromkeys(("lse", "norms", "row_terms", "d_q", "d_k", "d_v"), "*fp32")
    kinds |= {"plan_col_ptr": "*i64", "members": "*i8", "order": "*i32", "columns": "*i32"}
    kinds |= {"scale": "fp32", "scaling": "fp32"}
    table = {name: "*i32" for name in names if name.startswith(("plan_", "lists_"))}
    constants = {name: "constexpr" for name in names if name.isupper()}
    return {name: "i32" for name in names} | table | {n: k for n, k in kinds.items() if n in names} | constants

for dim, rows, keys, warps, dtype in ((96, 128, 64, 8, "bf16"),):
    constants = {"KEY_DIM": dim, "VALUE_DIM": dim, "KEY_WIDE": 128, "VALUE_WIDE": 128, "ROWS": rows, "TILE_K": keys}
    constants |= {"TILE_Q": rows // 4, "BLOCK_Q": 128, "BLOCK_K": 128, "HAS_COLUMNS": True}
    constants["PRECISION"] = "tf32"
    for kernel in (
        triton_kernels.forward, triton_kernels.backward_queries,
        triton_key_kernels.backward_blocks, triton_key_kernels.backward_columns,
    ):
        names = kernel.arg_names
        fixed = {(names.index(name),): value for name, value in constants.items() if name in names}
        source = ASTSource(kernel, signature(names, dtype), fixed, {})
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": 2})
        # what one block of a GPU of this kind may use
        assert built.metadata.shared <= 232448, kernel
        assert len(built.asm["cubin"]) > 0
print("compile")
"""


def run(code: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.slow
@needs_triton
def test_kernels_agree_with_the_reference() -> None:
    assert run(AGREE, TRITON_INTERPRET="1") == ["agree"]


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_a_gpu_of_compute_capability_9() -> None:
    assert run(COMPILES) == ["compile"]


def test_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = random_inputs(1, 2, 2, 32, 32, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendRefused, match="backend 'triton' cannot take this call: triton needs a GPU"):
        block_sparse_attention(query, key, value, full_plan(query, key), backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernel, "find_spec", lambda name: None)
    assert kernel.refusal(query, key, full_plan(query, key), False, False) == "the package 'triton' is not installed"
    monkeypatch.setattr(kernel, "find_spec", lambda name: object())
    assert kernel.refusal(query, key, full_plan(query, key), True, True) is None
    odd = full_plan(query, key, 8)
    assert "powers of two of at least 16, not 8" in str(kernel.refusal(query, key, odd, False, False))
    assert "not float64" in str(kernel.refusal(query.double(), key, full_plan(query, key), False, False))
    wide = torch.zeros(1, 2, 32, 512)
    assert "at most 256 channels" in str(kernel.refusal(wide, wide, full_plan(query, key), False, False))
