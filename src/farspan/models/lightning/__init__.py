"""Lightning attention: linear attention with decay, as an operation, a layer, and caches for hybrid models."""

from farspan.models.lightning.cache import HybridCache, StateCacheError, StateLayer, state_layer
from farspan.models.lightning.cost import compute_optimal, hybrid_flops
from farspan.models.lightning.layer import LightningAttention
from farspan.models.lightning.op import Backend, lightning_attention, lightning_decode
from farspan.models.lightning.slopes import LightningError, decay_slopes, hybrid_layer_types

__all__ = [
    "Backend",
    "HybridCache",
    "LightningAttention",
    "LightningError",
    "StateCacheError",
    "StateLayer",
    "compute_optimal",
    "decay_slopes",
    "hybrid_flops",
    "hybrid_layer_types",
    "lightning_attention",
    "lightning_decode",
    "state_layer",
]
