"""Lightning attention as one differentiable operation: checks, padding, packing, and the choice of a backend.

The backward pass needs no code of its own. With exchanged arguments the gradient of the queries is the same operation
forward in time, those of keys and values are the same operation backward in time; so every backend is one function.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2; the identities of the backward pass are derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from farspan.models.lightning import tiled
from farspan.models.lightning.slopes import LightningError, check_slopes

Backend = Literal["auto", "triton", "fla", "torch"]
Runner = Callable[..., tuple[Tensor, Tensor]]


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    *,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    padding_mask: Tensor | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Causal linear attention with a fixed decay a head, in time linear in the length.

    Parameters
    ----------
    q, k : Tensor [batch, length, heads, key_dim]
    v : Tensor [batch, length, heads, value_dim]
    slopes : Tensor [heads], not negative; see `decay_slopes`. No gradient flows to them.
    initial_state : Tensor [sequences, heads, key_dim, value_dim], the state an earlier call returned
    output_final_state : also return the state after the last token
    cu_seqlens : integer Tensor [sequences + 1], for sequences packed into a batch of one: the first token of each,
        and the total. The state starts anew at every sequence.
    padding_mask : Tensor [batch, length], nonzero for tokens. Padding, wherever it stands, neither adds to the state
        nor decays it; its output is 0.
    block_size : tokens of a tile; by default what suits the backend. It changes the speed, not the result.
    backend : `triton` and `fla` need a GPU and their package, `torch` runs anywhere; `auto` takes triton on a GPU

    Returns
    -------
    (output, state) : [batch, length, heads, value_dim] in the dtype of `v`; float32 state (float64 for float64
        inputs), or None if not asked for

    Raises
    ------
    LightningError : shapes, slopes, sequence bounds or backend that do not fit.
    """
    _check(q, k, v, slopes, cu_seqlens, padding_mask)
    if padding_mask is not None:
        mask = padding_mask.bool()
        left_padded = bool((mask[:, 1:] >= mask[:, :-1]).all())
        if not left_padded or (initial_state is not None and not mask.all()):
            return _packed(q, k, v, slopes, mask, initial_state, output_final_state, block_size, backend)
        # before the first token the state is zero, so decay does nothing and it is enough to add nothing
        v = v.masked_fill(~mask[:, :, None, None], 0)
        q = q.masked_fill(~mask[:, :, None, None], 0)
    bounds = None if cu_seqlens is None else [int(x) for x in cu_seqlens.tolist()]
    sequences = len(q) if bounds is None else len(bounds) - 1
    expected = (sequences, q.shape[2], q.shape[3], v.shape[3])
    if initial_state is not None and initial_state.shape != expected:
        raise LightningError(f"initial_state must have shape {expected}, not {tuple(initial_state.shape)}")
    run = _runner(backend, q, block_size)
    output, state = _Lightning.apply(q, k, v, slopes.detach(), initial_state, bounds, run)  # type: ignore[no-untyped-call]
    return output, state if output_final_state else None


def lightning_decode(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """One more token a row.

    Parameters
    ----------
    q, k, v : Tensor [batch, 1, heads, dim]
    slopes : Tensor [heads]
    state : Tensor [batch, heads, key_dim, value_dim]

    Returns
    -------
    (output, state) : [batch, 1, heads, value_dim] in the dtype of `v`, and the new state in the dtype of the old
    """
    check_slopes(slopes, q.shape[2])
    if _name(backend, q) == "triton" and not _needs_gradient(q, k, v, state):
        from farspan.models.lightning import triton_kernels

        return triton_kernels.decode(q, k, v, slopes, state)
    keep = torch.exp(-slopes.to(device=state.device, dtype=state.dtype))[:, None, None]
    # [batch, heads, 1, dim]
    query, key, value = (x.transpose(1, 2).to(state.dtype) for x in (q, k, v))
    state = state * keep + key.transpose(-1, -2) * value
    return (query @ state).transpose(1, 2).to(v.dtype), state


class _Lightning(torch.autograd.Function):
    """Forward through a runner, backward through the same runner three times."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slopes: Tensor,
        state: Tensor | None,
        bounds: Sequence[int] | None,
        run: Runner,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, slopes, state)  # type: ignore[arg-type]
        ctx.bounds, ctx.run = bounds, run  # type: ignore[attr-defined]
        return run(q, k, v, slopes, state, bounds)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_out: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, slopes, state = ctx.saved_tensors  # type: ignore[attr-defined]
        run = partial(ctx.run, slopes=slopes, bounds=ctx.bounds)  # type: ignore[attr-defined]
        d_out = d_out.to(v.dtype)
        rate = torch.exp(slopes.to(device=d_final.device, dtype=d_final.dtype))[:, None, None]
        # the reverse state is used one decay too early, which the factor takes back
        d_late = d_final * rate
        turned = None if state is None else state.transpose(-1, -2)
        d_q, _ = run(d_out, v, k, state=turned)
        d_k, _ = run(v, d_out, q, state=d_late.transpose(-1, -2), reverse=True)
        d_v, early = run(k, q, d_out, state=d_late, reverse=True)
        d_state = None if state is None else (early / rate).to(state.dtype)
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v, None, d_state, None, None


def _packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    mask: Tensor,
    initial_state: Tensor | None,
    output_final_state: bool,
    block_size: int | None,
    backend: Backend,
) -> tuple[Tensor, Tensor | None]:
    """A padded batch as sequences without their padding, and back."""
    tokens = mask.flatten().nonzero().squeeze(-1)
    bounds = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    query, key, value = (x.flatten(0, 1)[tokens][None] for x in (q, k, v))
    output, state = lightning_attention(
        query,
        key,
        value,
        slopes,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=bounds,
        block_size=block_size,
        backend=backend,
    )
    spread = v.new_zeros(v.shape).flatten(0, 1).index_copy(0, tokens, output[0])
    return spread.view(v.shape), state


def _runner(backend: Backend, q: Tensor, block_size: int | None) -> Runner:
    name = _name(backend, q)
    if block_size is not None and block_size < 1:
        raise LightningError(f"block_size must be at least 1, not {block_size}")
    if name == "torch":
        return partial(tiled.run, tile=block_size or tiled.TILE)
    if name == "fla":
        from farspan.models.lightning import fla

        return fla.run
    from farspan.models.lightning import triton_kernels

    return partial(triton_kernels.run, tile=block_size)


def _name(backend: Backend, q: Tensor) -> str:
    if backend == "auto":
        return "triton" if q.is_cuda and q.dtype != torch.float64 and find_spec("triton") is not None else "torch"
    if backend != "torch" and find_spec(backend) is None:
        raise LightningError(f"backend '{backend}' needs the package '{backend}'; install it or use backend='torch'")
    return backend


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _check(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, cu_seqlens: Tensor | None, padding_mask: Tensor | None
) -> None:
    if q.ndim != 4 or q.shape != k.shape or v.shape[:3] != q.shape[:3]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise LightningError(f"q and k must be [batch, length, heads, dim] and v alike but for dim; given {shapes}")
    check_slopes(slopes, q.shape[2])
    if padding_mask is not None and padding_mask.shape != q.shape[:2]:
        raise LightningError(f"padding_mask must have shape {tuple(q.shape[:2])}, not {tuple(padding_mask.shape)}")
    if cu_seqlens is None:
        return
    if padding_mask is not None:
        raise LightningError("give cu_seqlens for packed sequences or padding_mask for a padded batch, not both")
    if len(q) != 1:
        raise LightningError(f"packed sequences are a batch of one, not {len(q)}")
    bounds = cu_seqlens.tolist()
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != q.shape[1] or sorted(bounds) != bounds:
        raise LightningError(f"cu_seqlens must rise from 0 to {q.shape[1]}, the number of tokens; given {bounds[:8]}")
