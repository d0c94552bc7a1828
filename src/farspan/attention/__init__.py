"""Attention: levers that make attention cheap by reading less, exact on what they read.

A selector (one file a method) says which blocks of keys each block of queries reads; the `BlockPlan` holds that as
data; executors compute exact attention over it; one interface brings all of them into any transformers decoder.
Positions and the contents of the cache are not changed here.
"""

from farspan.attention.antidiagonal import XAttention, antidiagonal_scores
from farspan.attention.blockrank import (
    BlockRank,
    SignalRecorder,
    attention_scores_to_documents,
    attention_signal_logits,
    block_infonce,
    block_layout,
)
from farspan.attention.clustered_keys import PrefixCache, cluster_keys
from farspan.attention.executors import Backend, BackendRefused, block_sparse_attention
from farspan.attention.executors.flex import FlexFailed
from farspan.attention.grouped import grouped_attention
from farspan.attention.interface import AttentionFallback, UnknownMethod, methods
from farspan.attention.lever import AttentionLever
from farspan.attention.lightning import Lightning
from farspan.attention.linearize import Linearize
from farspan.attention.lookup import Clusters, Lookup, SqueezeError, calibrate_thresholds, squeeze_lookup
from farspan.attention.mean_pool import MeanPool
from farspan.attention.merge import merge_attention
from farspan.attention.patterned_heads import MInference
from farspan.attention.permuted_block_sparse import PermutedBlockSparse, key_permutation
from farspan.attention.plan import BlockPlan, PlanError
from farspan.attention.prefix_building import build_prefix_cache
from farspan.attention.prefix_files import load_prefix, save_prefix
from farspan.attention.query_aware import FlexPrefill
from farspan.attention.report import attention_report, coverage, permutation_shares
from farspan.attention.scoring import block_scores, select_by_mass
from farspan.attention.segments import BlockLayout, LayoutError, segmented_attention
from farspan.attention.selection import AttentionContext, Selection
from farspan.attention.self_similarity import SpargeAttn, block_self_similarity
from farspan.attention.sink_window import SinkWindow
from farspan.attention.squeezed import Squeezed, squeezed_attention
from farspan.attention.state import LayerStats
from farspan.attention.switch import apply_attention, remove_attention
from farspan.attention.triangle import AShape, TriShape
from farspan.attention.vertical_slash import vertical_slash_indices

__all__ = [
    "AShape",
    "AttentionContext",
    "AttentionFallback",
    "AttentionLever",
    "Backend",
    "BackendRefused",
    "BlockLayout",
    "BlockPlan",
    "BlockRank",
    "Clusters",
    "FlexFailed",
    "FlexPrefill",
    "LayerStats",
    "LayoutError",
    "Lightning",
    "Linearize",
    "Lookup",
    "MInference",
    "MeanPool",
    "PermutedBlockSparse",
    "PlanError",
    "PrefixCache",
    "Selection",
    "SignalRecorder",
    "SinkWindow",
    "SpargeAttn",
    "SqueezeError",
    "Squeezed",
    "TriShape",
    "UnknownMethod",
    "XAttention",
    "antidiagonal_scores",
    "apply_attention",
    "attention_report",
    "attention_scores_to_documents",
    "attention_signal_logits",
    "block_infonce",
    "block_layout",
    "block_scores",
    "block_self_similarity",
    "block_sparse_attention",
    "build_prefix_cache",
    "calibrate_thresholds",
    "cluster_keys",
    "coverage",
    "grouped_attention",
    "key_permutation",
    "load_prefix",
    "merge_attention",
    "methods",
    "permutation_shares",
    "remove_attention",
    "save_prefix",
    "segmented_attention",
    "select_by_mass",
    "squeeze_lookup",
    "squeezed_attention",
    "vertical_slash_indices",
]
