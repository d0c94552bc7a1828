"""Attention: levers that make attention cheap by reading less, exact on what they read.

A selector (one file a method) says which blocks of keys each block of queries reads; the `BlockPlan` holds that as
data; executors compute exact attention over it; one interface brings all of them into any transformers decoder.
Positions and the contents of the cache are not changed here.
"""

from farspan.attention.executors import Backend, BackendRefused, block_sparse_attention
from farspan.attention.executors.flex import FlexFailed
from farspan.attention.interface import AttentionFallback, UnknownMethod, methods
from farspan.attention.lever import AttentionLever
from farspan.attention.mean_pool import MeanPool
from farspan.attention.merge import merge_attention
from farspan.attention.permuted_block_sparse import PermutedBlockSparse, key_permutation
from farspan.attention.plan import BlockPlan, PlanError
from farspan.attention.report import attention_report, coverage
from farspan.attention.scoring import block_scores, select_by_mass
from farspan.attention.selection import AttentionContext, Selection
from farspan.attention.sink_window import SinkWindow
from farspan.attention.state import LayerStats
from farspan.attention.switch import apply_attention, remove_attention

__all__ = [
    "AttentionContext",
    "AttentionFallback",
    "AttentionLever",
    "Backend",
    "BackendRefused",
    "BlockPlan",
    "FlexFailed",
    "LayerStats",
    "MeanPool",
    "PermutedBlockSparse",
    "PlanError",
    "Selection",
    "SinkWindow",
    "UnknownMethod",
    "apply_attention",
    "attention_report",
    "block_scores",
    "block_sparse_attention",
    "coverage",
    "key_permutation",
    "merge_attention",
    "methods",
    "remove_attention",
    "select_by_mass",
]
