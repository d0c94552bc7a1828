"""The Triton kernels under Triton's interpreter, in a process of their own; skipped where Triton is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

CHECK = """
import torch
from farspan.models.lightning import lightning_decode, tiled, triton_kernels

torch.set_num_threads(1)
torch.manual_seed(0)

def near(found, expected, limit):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one.float() - other.float()).abs().max() <= limit * other.float().abs().max().clamp(min=1)

for dtype, limit in ((torch.float32, 1e-5), (torch.float16, 5e-3)):
    for batch, length, heads, key, value, tile in ((2, 37, 3, 20, 24, 16), (1, 64, 2, 16, 80, 32)):
        q, k = (torch.randn(batch, length, heads, key).to(dtype) for _ in range(2))
        v = torch.randn(batch, length, heads, value).to(dtype)
        slopes, state = torch.rand(heads), torch.randn(batch, heads, key, value)
        for before in (None, state):
            for reverse in (False, True):
                found = triton_kernels.run(q, k, v, slopes, before, None, tile=tile, reverse=reverse)
                near(found, tiled.run(q, k, v, slopes, before, None, reverse=reverse), limit)
        near(
            triton_kernels.decode(q[:, :1], k[:, :1], v[:, :1], slopes, state),
            lightning_decode(q[:, :1], k[:, :1], v[:, :1], slopes, state, backend="torch"),
            limit,
        )
    packed, bounds = torch.randn(3, heads, key, value), [0, 5, 5, length]
    found = triton_kernels.run(q, k, v, slopes, packed, bounds, tile=tile)
    near(found, tiled.run(q, k, v, slopes, packed, bounds), limit)
print("agree")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: its kernels were not run")
def test_kernels_agree_with_the_tiles() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["agree"], done.stderr[-2000:]
