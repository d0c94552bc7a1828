"""One sequence over several ranks: layouts, exact attention, the communication plan, and any model under it."""

from farspan.training.parallel.attention import distributed_attention
from farspan.training.parallel.communicator import (
    Communicator,
    ProcessCommunicator,
    ThreadCommunicator,
    communicator,
    run_ranks,
)
from farspan.training.parallel.context import all_reduce_gradients, context_parallel
from farspan.training.parallel.decode import distributed_decode, streaming_attention, tiles
from farspan.training.parallel.layouts import (
    Layout,
    ParallelError,
    causal_cells,
    imbalance,
    layout_indices,
    padded_length,
    shard_sequence,
    unshard_sequence,
)
from farspan.training.parallel.linear import distributed_lightning
from farspan.training.parallel.plan import Strategy, choose_strategy, communication_bytes, score_matrix_bytes

__all__ = [
    "Communicator",
    "Layout",
    "ParallelError",
    "ProcessCommunicator",
    "Strategy",
    "ThreadCommunicator",
    "all_reduce_gradients",
    "causal_cells",
    "choose_strategy",
    "communication_bytes",
    "communicator",
    "context_parallel",
    "distributed_attention",
    "distributed_decode",
    "distributed_lightning",
    "imbalance",
    "layout_indices",
    "padded_length",
    "run_ranks",
    "score_matrix_bytes",
    "shard_sequence",
    "streaming_attention",
    "tiles",
    "unshard_sequence",
]
