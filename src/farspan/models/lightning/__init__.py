"""Lightning attention: linear attention with decay, as an operation, a layer and a hybrid model's cache."""

from farspan.models.lightning.op import Backend, lightning_attention, lightning_decode
from farspan.models.lightning.slopes import LightningError, decay_slopes, hybrid_layer_types

__all__ = [
    "Backend",
    "LightningError",
    "decay_slopes",
    "hybrid_layer_types",
    "lightning_attention",
    "lightning_decode",
]
