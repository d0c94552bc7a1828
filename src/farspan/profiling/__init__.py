"""Measures of cost: time to first token, time per token, and where the memory goes, over context lengths.

This room times and counts what a model does as it stands, levers and all. It knows nothing of the quality of answers.
"""

from farspan.profiling.attention import AttentionCost, profile_attention
from farspan.profiling.layers import Layer, Problem, made_up, read_by
from farspan.profiling.memory import (
    all_logits_bytes_per_token,
    cache_bytes,
    kv_bytes_per_token,
    peak_bytes,
    weight_bytes,
)
from farspan.profiling.mixers import MixerCost, profile_mixers
from farspan.profiling.profile import MemorySplit, Profile, ProfileError, ProfilePoint, Spread
from farspan.profiling.run import run_profile
from farspan.profiling.shape import Cliff, Complexity, detect_cliffs, fit_complexity
from farspan.profiling.timing import Latency, latency_metrics

__all__ = [
    "AttentionCost",
    "Cliff",
    "Complexity",
    "Latency",
    "Layer",
    "MemorySplit",
    "MixerCost",
    "Problem",
    "Profile",
    "ProfileError",
    "ProfilePoint",
    "Spread",
    "all_logits_bytes_per_token",
    "cache_bytes",
    "detect_cliffs",
    "fit_complexity",
    "kv_bytes_per_token",
    "latency_metrics",
    "made_up",
    "peak_bytes",
    "profile_attention",
    "profile_mixers",
    "read_by",
    "run_profile",
    "weight_bytes",
]
