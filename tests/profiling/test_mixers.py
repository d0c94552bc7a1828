"""Mixers side by side: all of them run, and what is counted is what they say."""

from __future__ import annotations

import pytest

from farspan.models.mixers import MIXERS, MixerError, build_mixer
from farspan.profiling import profile_mixers
from farspan.profiling.mixers import counted


def test_every_mixer_is_measured_at_every_length() -> None:
    costs = profile_mixers(lengths=[64, 32], hidden=32, heads=2, rounds=1)
    assert [(cost.length, cost.mixer) for cost in costs] == [(length, kind) for length in (32, 64) for kind in MIXERS]
    for cost in costs:
        assert cost.seconds > 0
        assert (cost.step_seconds is not None) == cost.causal == MIXERS[cost.mixer].traits.causal
        assert cost.peak_bytes is not None
        # the mixed sequence
        assert cost.peak_bytes >= cost.length * 32 * 4
    by_length = {(cost.mixer, cost.length): cost for cost in costs}
    assert by_length["softmax_attention", 64].state_bytes == 2 * by_length["softmax_attention", 32].state_bytes
    assert by_length["linear_attention", 64].state_bytes == by_length["linear_attention", 32].state_bytes


def test_what_is_counted() -> None:
    found = counted("softmax_attention", 32, 2, [16, 64])
    mixer = build_mixer("softmax_attention", 32, 2)
    assert found["flops"] == {"16": mixer.flops(16), "64": mixer.flops(64)}
    assert found["state_bytes"] == {"16": mixer.state_bytes(16), "64": mixer.state_bytes(64)}


def test_unknown_mixers_are_named() -> None:
    with pytest.raises(MixerError, match="unknown mixer 'conv'"):
        profile_mixers(["conv"], [32])
