"""Every mixer: its forms agree, it does not look ahead, it goes on from its state, and its matrix is what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farspan.models.mixers import MIXERS, MixerError, TokenMixer, build_mixer
from farspan.models.mixers.toeplitz import causal_convolution, toeplitz

D, HEADS, LENGTH = 16, 2, 20
CAUSAL = [kind for kind, mixer in MIXERS.items() if mixer.traits.causal]
PADDED = [kind for kind in CAUSAL if kind != "mlp_mixer"]
VARIANTS: dict[str, dict[str, object]] = {
    "softmax_attention": {"rope_theta": 100.0, "kv_heads": 1},
    "sparse_attention": {"size": 4, "pattern": "strided"},
    "average_pool": {"window": 5},
}


def _mixer(kind: str, **settings: object) -> TokenMixer:
    torch.manual_seed(0)
    return build_mixer(kind, D, HEADS, max_length=LENGTH, **{**VARIANTS.get(kind, {}), **settings}).double()


def _input(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randn(batch, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CAUSAL)
def test_nothing_depends_on_later_tokens(kind: str) -> None:
    mixer, x = _mixer(kind), _input()
    changed = x.clone()
    changed[:, 11:] += 1
    y, other = mixer(x)[0], mixer(changed)[0]
    torch.testing.assert_close(y[:, :11], other[:, :11], atol=1e-10, rtol=0)
    assert (y[:, 11:] - other[:, 11:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CAUSAL)
def test_chunks_and_single_steps_are_the_whole(kind: str) -> None:
    mixer, x = _mixer(kind), _input()
    whole, _ = mixer(x)
    first, state = mixer(x[:, :9])
    second, state = mixer(x[:, 9:14], state=state)
    outputs = [first, second]
    for t in range(14, LENGTH):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y[:, None])
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    y, state = mixer.step(x[:, 0], None)
    torch.testing.assert_close(y, whole[:, 0])


@pytest.mark.parametrize("kind", PADDED)
def test_left_padded_rows_equal_rows_alone(kind: str) -> None:
    mixer, x = _mixer(kind), _input()
    mask = torch.ones(2, LENGTH)
    mask[0, :6] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0).long()
    y, state = mixer(x, padding_mask=mask, positions=positions)
    alone, own = mixer(x[:1, 6:])
    torch.testing.assert_close(y[:1, 6:], alone)
    more = _input(2, 3)
    if kind == "long_convolution":
        return  # its parameters end here
    after = positions[:, -1:] + torch.arange(1, 4)
    later, _ = mixer(more, state=state, positions=after)
    torch.testing.assert_close(later[:1], mixer(more[:1], state=own)[0])


@pytest.mark.parametrize("kind", CAUSAL)
def test_gradients_reach_every_parameter(kind: str) -> None:
    mixer = _mixer(kind)
    mixer(_input().requires_grad_())[0].square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["softmax_attention", "linear_attention", "sparse_attention", "average_pool"])
def test_the_matrix_times_the_values_is_the_output(kind: str, causal: bool) -> None:
    mixer, x = _mixer(kind), _input(1)
    matrix = mixer.mixing_matrix(x, causal=causal)
    assert mixer.traits.normalised
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))
    assert (matrix >= 0).all()
    if causal:
        assert not matrix.triu(1).any()
    if kind == "average_pool":
        values = x[:, None]
    else:
        values = mixer.project(x)[2]  # type: ignore[operator]
        values = values.repeat_interleave(HEADS // values.shape[1], 1)
    y = (matrix @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixer(x, causal=causal)[0], y)


@pytest.mark.parametrize("kind", ["long_convolution", "diagonal_ssm"])
def test_the_transform_is_the_toeplitz_matrix(kind: str) -> None:
    mixer, x = _mixer(kind), _input()
    matrix = mixer.mixing_matrix(x)
    assert matrix.shape == (1, D, LENGTH, LENGTH)
    torch.testing.assert_close(mixer(x)[0], torch.einsum("dts,bsd->btd", matrix[0], x))


def test_the_state_space_is_its_recurrence() -> None:
    mixer, x = _mixer("diagonal_ssm", states=3), _input()
    a, b, c = torch.tanh(mixer.raw_a), mixer.b, mixer.c
    state, outputs = x.new_zeros(2, D, 3), []
    for t in range(LENGTH):
        state = a * state + b * x[:, t, :, None]
        outputs.append((c * state).sum(-1))
    torch.testing.assert_close(mixer(x)[0], torch.stack(outputs, 1))


def test_lightning_shows_the_matrix_before_its_norm() -> None:
    mixer, x = _mixer("lightning"), _input(1)
    matrix = mixer.mixing_matrix(x)
    assert not matrix.triu(1).any()
    layer = mixer.layer
    values = layer.project(x)[2].transpose(1, 2)  # type: ignore[union-attr, operator]
    mixed = (matrix @ values).transpose(1, 2)
    torch.testing.assert_close(mixer(x)[0], layer.finish(mixed, x))  # type: ignore[union-attr, operator]


def test_patterns_keep_what_they_say() -> None:
    index = torch.arange(8)
    window = _mixer("sparse_attention", pattern="window", size=3).kept(index, index)  # type: ignore[operator]
    assert window[5].nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    block = _mixer("sparse_attention", pattern="block", size=3).kept(index, index)  # type: ignore[operator]
    assert block[5].nonzero().flatten().tolist() == [3, 4, 5]
    strided = _mixer("sparse_attention", pattern="strided", size=3).kept(index, index)  # type: ignore[operator]
    assert strided[7].nonzero().flatten().tolist() == [0, 3, 5, 6, 7]


@pytest.mark.parametrize("kind", ["fourier", "low_rank"])
def test_what_has_no_causal_form_refuses_one(kind: str) -> None:
    mixer, x = _mixer(kind), _input()
    with pytest.raises(MixerError, match="no causal form"):
        mixer(x)
    y, state = mixer(x, causal=False)
    assert y.shape == x.shape
    assert state is None


def test_fourier_is_its_matrices_and_works_in_half_precision() -> None:
    mixer, x = _mixer("fourier"), _input(1)
    along = mixer.mixing_matrix(x, causal=False)[0, 0]
    across = torch.fft.fft(torch.eye(D, dtype=torch.float64))
    y = mixer(x, causal=False)[0]
    torch.testing.assert_close(y[0], (along @ x[0].to(along.dtype) @ across).real)
    half = mixer(x.bfloat16(), causal=False)[0]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), y, atol=0.5, rtol=0.05)


def test_low_rank_is_softmax_over_combinations() -> None:
    mixer, x = _mixer("low_rank", rank=5), _input(1)
    weights = mixer.mixing_matrix(x, causal=False)
    assert weights.shape == (1, HEADS, LENGTH, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("kind", list(MIXERS))
def test_costs_grow_as_the_traits_say(kind: str) -> None:
    mixer = _mixer(kind)
    ratio = mixer.flops(2048) / mixer.flops(1024)
    assert (ratio > 2.5) == (kind in ("softmax_attention",)) or kind == "sparse_attention"
    if mixer.traits.causal:
        sizes = [mixer.state_bytes(length) for length in (64, 128)]
        grows = kind in ("softmax_attention", "sparse_attention", "mlp_mixer", "long_convolution")
        assert (sizes[1] == 2 * sizes[0]) == grows
        assert (sizes[1] == sizes[0]) == (not grows)


def test_nonsense_is_refused_in_one_line() -> None:
    for call in (
        lambda: build_mixer("nothing", 8),
        lambda: build_mixer("average_pool", 8, rank=3),
        lambda: build_mixer("softmax_attention", 9, 2),
        lambda: build_mixer("sparse_attention", 8, 2, size=0),
        lambda: _mixer("long_convolution")(_input(1, LENGTH + 1)),
        lambda: _mixer("softmax_attention")(_input(1), causal=False, state=()),
        lambda: _mixer("mlp_mixer")(_input(1), padding_mask=torch.zeros(1, LENGTH)),
        lambda: _mixer("mlp_mixer").mixing_matrix(_input(1)),
    ):
        with pytest.raises(MixerError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_convolution_of_odd_lengths() -> None:
    for length in (1, 2, 7):
        x, kernel = torch.randn(1, length, 3), torch.randn(length, 3)
        expected = torch.einsum("dts,bsd->btd", toeplitz(kernel.t()), x)
        torch.testing.assert_close(causal_convolution(x, kernel), expected, atol=1e-5, rtol=1e-5)
