"""Memory: levers that make what a model keeps of its context smaller.

A method (one file each) says what a stored token is worth; the cache drops the others and keeps true positions.
How attention over what is left is computed is the attention room's business.
"""

from farspan.memory.eviction import EvictionStats, Stored, eviction_report, kept_slots, prune
from farspan.memory.expected_attention import ExpectedAttention
from farspan.memory.keydiff import KeyDiff
from farspan.memory.knorm import KeyNorm
from farspan.memory.lever import BudgetedEviction, EvictionLever
from farspan.memory.press import KVPressAdapter, to_press
from farspan.memory.pruned_layer import PrunedLayer
from farspan.memory.random_eviction import RandomEviction
from farspan.memory.snapkv import SnapKV
from farspan.memory.streaming import StreamingLLM
from farspan.memory.tova import Tova

__all__ = [
    "BudgetedEviction",
    "EvictionLever",
    "EvictionStats",
    "ExpectedAttention",
    "KVPressAdapter",
    "KeyDiff",
    "KeyNorm",
    "PrunedLayer",
    "RandomEviction",
    "SnapKV",
    "Stored",
    "StreamingLLM",
    "Tova",
    "eviction_report",
    "kept_slots",
    "prune",
    "to_press",
]
