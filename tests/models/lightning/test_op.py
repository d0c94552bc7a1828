"""The operation against its definition: tiles, states, padding, packing, gradients, speed."""

from __future__ import annotations

import statistics
import sys
import time
from itertools import pairwise
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farspan.models.lightning import LightningError, decay_slopes, lightning_attention, lightning_decode, tiled
from farspan.models.lightning.reference import recurrent

HEADS, KEY, VALUE = 3, 4, 5


def _inputs(batch: int, length: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, HEADS, dim) for dim in (KEY, KEY, VALUE)] + [(batch, HEADS, KEY, VALUE)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


SLOPES = torch.tensor([0.9, 0.05, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("block", [1, 16, 64, 100])
def test_tiles_of_any_size_give_the_recurrence(block: int) -> None:
    q, k, v, state = _inputs(2, 100)
    output, final = lightning_attention(q, k, v, SLOPES, initial_state=state, output_final_state=True, block_size=block)
    expected, last = recurrent(q, k, v, SLOPES, state)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(final, last)


def test_a_stretch_hands_its_state_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "STRETCH", 128)
    q, k, v, _ = _inputs(1, 700, torch.float32)
    output, final = lightning_attention(q, k, v, SLOPES, output_final_state=True)
    expected, last = recurrent(*(x.double() for x in (q, k, v)), SLOPES)
    torch.testing.assert_close(output.double(), expected, atol=1e-4, rtol=1e-4)
    assert final is not None
    torch.testing.assert_close(final.double(), last, atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    cut=st.integers(0, 40), length=st.integers(1, 40), block=st.sampled_from([1, 3, 16, 64]), seed=st.integers(0, 99)
)
def test_a_sequence_cut_in_two_with_its_state_carried_is_the_whole(
    cut: int, length: int, block: int, seed: int
) -> None:
    q, k, v, _ = _inputs(1, length, seed=seed)
    cut = min(cut, length)
    whole, final = lightning_attention(q, k, v, SLOPES, output_final_state=True, block_size=block)
    first, state = lightning_attention(
        q[:, :cut], k[:, :cut], v[:, :cut], SLOPES, output_final_state=True, block_size=block
    )
    second, last = lightning_attention(
        q[:, cut:], k[:, cut:], v[:, cut:], SLOPES, initial_state=state, output_final_state=True, block_size=block
    )
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, final)


def test_tokens_one_by_one_are_the_prefill() -> None:
    q, k, v, state = _inputs(2, 13)
    expected, last = lightning_attention(q, k, v, SLOPES, initial_state=state, output_final_state=True)
    outputs = []
    for t in range(13):
        output, state = lightning_decode(q[:, t : t + 1], k[:, t : t + 1], v[:, t : t + 1], SLOPES, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), expected)
    torch.testing.assert_close(state, last)


def test_without_decay_it_is_cumulative_linear_attention() -> None:
    q, k, v, _ = _inputs(1, 30)
    output, _ = lightning_attention(q, k, v, torch.zeros(HEADS), block_size=8)
    sums = (k[..., None] * v[..., None, :]).cumsum(1)
    torch.testing.assert_close(output, torch.einsum("bnhd,bnhde->bnhe", q, sums))


def test_packed_sequences_do_not_see_each_other() -> None:
    q, k, v, _ = _inputs(1, 40)
    states = _inputs(4, 1, seed=1)[3]
    bounds = [0, 7, 7, 30, 40]
    output, final = lightning_attention(
        q, k, v, SLOPES, initial_state=states, output_final_state=True, cu_seqlens=torch.tensor(bounds), block_size=8
    )
    for index, (start, stop) in enumerate(pairwise(bounds)):
        expected, last = recurrent(
            q[:, start:stop], k[:, start:stop], v[:, start:stop], SLOPES, states[index : index + 1]
        )
        torch.testing.assert_close(output[:, start:stop], expected)
        assert final is not None
        torch.testing.assert_close(final[index : index + 1], last)


MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8],
    "right": [[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8],
    "holes": [[0, 1, 0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 1, 1, 1]],
    "nothing": [[0] * 8, [1] * 8],
}


@pytest.mark.parametrize("name", list(MASKS))
@pytest.mark.parametrize("carried", [False, True])
def test_padding_neither_adds_to_the_state_nor_decays_it(name: str, carried: bool) -> None:
    q, k, v, state = _inputs(2, 8)
    mask = torch.tensor(MASKS[name])
    before = state if carried else None
    output, final = lightning_attention(
        q, k, v, SLOPES, initial_state=before, output_final_state=True, padding_mask=mask, block_size=4
    )
    assert final is not None
    for row in range(2):
        real = mask[row].bool()
        own = None if before is None else before[row : row + 1]
        if real.any():
            parts = [x[row : row + 1, real] for x in (q, k, v)]
            expected, last = recurrent(*parts, SLOPES, own)  # type: ignore[arg-type]
            torch.testing.assert_close(output[row, real], expected[0])
        else:
            last = torch.zeros_like(state[:1]) if own is None else own
        torch.testing.assert_close(final[row], last[0])
        assert not output[row, ~real].any()


@pytest.mark.parametrize("mask", [None, *MASKS])
def test_gradients(mask: str | None) -> None:
    inputs = [x.requires_grad_() for x in _inputs(2, 8)]
    padding = None if mask is None else torch.tensor(MASKS[mask])

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None]:
        return lightning_attention(
            q, k, v, SLOPES, initial_state=state, output_final_state=True, block_size=3, padding_mask=padding
        )

    assert torch.autograd.gradcheck(run, inputs)


def test_gradients_of_packed_sequences() -> None:
    inputs = [x.requires_grad_() for x in _inputs(1, 9)[:3]]
    bounds = torch.tensor([0, 4, 9])
    assert torch.autograd.gradcheck(
        lambda *x: lightning_attention(*x, SLOPES, cu_seqlens=bounds, block_size=3)[0], inputs
    )


def test_half_precision_keeps_a_float32_state() -> None:
    q, k, v, _ = _inputs(1, 70, torch.bfloat16)
    output, state = lightning_attention(q, k, v, SLOPES, output_final_state=True)
    assert state is not None
    assert (output.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    expected, last = recurrent(*(x.double() for x in (q, k, v)), SLOPES)
    torch.testing.assert_close(output.double(), expected, atol=0.05, rtol=0.01)
    torch.testing.assert_close(state.double(), last, atol=1e-4, rtol=1e-4)


def test_large_slopes_do_not_overflow() -> None:
    q, k, v, state = _inputs(1, 300, torch.float32)
    slopes = torch.tensor([30.0, 3.0, 0.3])
    output, final = lightning_attention(q, k, v, slopes, initial_state=state, output_final_state=True)
    expected, _ = recurrent(q, k, v, slopes, state)
    assert final is not None
    assert final.isfinite().all()
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


def test_shards_put_together_by_their_states_are_the_whole() -> None:
    from farspan.models.lightning.shards import states_before

    q, k, v, _ = _inputs(2, 24)
    whole, _ = lightning_attention(q, k, v, SLOPES)
    lengths = [5, 0, 12, 7]
    parts = [x.split(lengths, 1) for x in (q, k, v)]
    own = []
    for shard in zip(*parts, strict=True):
        _, state = lightning_attention(*shard, SLOPES, output_final_state=True)
        assert state is not None
        own.append(state)
    before = states_before(torch.stack(own), SLOPES, lengths)
    outputs = [
        lightning_attention(*shard, SLOPES, initial_state=before[index])[0]
        for index, shard in enumerate(zip(*parts, strict=True))
    ]
    torch.testing.assert_close(torch.cat(outputs, 1), whole)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"slopes": torch.ones(2)}, "one for each head"),
        ({"cu_seqlens": torch.tensor([1, 8])}, "rise from 0 to 8"),
        ({"cu_seqlens": torch.tensor([0, 5])}, "rise from 0 to 8"),
        ({"padding_mask": torch.ones(1, 7)}, "padding_mask must have shape"),
        ({"initial_state": torch.zeros(1, HEADS, KEY, KEY)}, "initial_state must have shape"),
        ({"block_size": 0}, "block_size"),
        ({"v": torch.zeros(1, 7, HEADS, VALUE)}, "must be"),
        ({"cu_seqlens": torch.tensor([0, 8]), "padding_mask": torch.ones(1, 8)}, "not both"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: dict[str, object], word: str) -> None:
    q, k, v, _ = _inputs(1, 8)
    arguments: dict[str, object] = {"q": q, "k": k, "v": v, "slopes": SLOPES, **change}
    with pytest.raises(LightningError, match=word) as caught:
        lightning_attention(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named() -> None:
    q, k, v, _ = _inputs(1, 8)
    with pytest.raises(LightningError, match="needs the package 'fla'"):
        lightning_attention(q, k, v, SLOPES, backend="fla")


def test_fla_is_called_with_this_decay_and_no_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package: what it is called with, forward and backward in time."""
    module = ModuleType("fla.ops.simple_gla")
    scales = []

    def chunk_simple_gla(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        g_gamma: Tensor,
        scale: float,
        initial_state: Tensor | None,
        output_final_state: bool,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        scales.append(scale)
        return lightning_attention(
            q,
            k,
            v,
            -g_gamma,
            initial_state=initial_state,
            output_final_state=output_final_state,
            cu_seqlens=cu_seqlens,
            backend="torch",
        )

    module.chunk_simple_gla = chunk_simple_gla  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", module)
    monkeypatch.setattr("farspan.models.lightning.op.find_spec", lambda name: name)
    inputs = [x.requires_grad_() for x in _inputs(1, 11)[:3]]
    for bounds in (None, torch.tensor([0, 4, 11])):
        grads = []
        for backend in ("fla", "torch"):
            output, _ = lightning_attention(*inputs, SLOPES.float(), cu_seqlens=bounds, backend=backend)  # type: ignore[arg-type]
            grads.append(torch.autograd.grad((output * output).sum(), inputs))
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other)
    assert set(scales) == {1.0}


@pytest.mark.timing
def test_linear_time_and_ten_times_faster_than_softmax_at_16k() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        slopes = decay_slopes(8, 1, 4)
        inputs = {n: [torch.randn(1, n, 8, 64) for _ in range(3)] for n in (16384, 65536)}
        seconds: dict[str, list[float]] = {"16k": [], "64k": [], "softmax": []}
        with torch.no_grad():
            for _ in range(3):
                for name, length in (("16k", 16384), ("64k", 65536)):
                    started = time.process_time()
                    lightning_attention(*inputs[length], slopes)
                    seconds[name].append(time.process_time() - started)
                started = time.process_time()
                F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs[16384]), is_causal=True)
                seconds["softmax"].append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    assert median["softmax"] >= 10 * median["16k"], median
    assert median["64k"] <= 4.5 * median["16k"], median
