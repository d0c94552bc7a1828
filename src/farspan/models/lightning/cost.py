"""What hybrids of softmax and lightning layers cost, from sizes alone, and the published fits of loss against compute.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2 and table 2. The unit of compute in the fits, PFLOP/s-days, is our
reading: absolute values need a fit of one's own, ratios between architectures do not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from farspan.models.lightning.slopes import LightningError

Architecture = Literal["softmax", "lightning", "hybrid"]

# coefficient and exponent of loss, parameters and tokens as powers of compute
_FITS: dict[str, tuple[tuple[float, float], ...]] = {
    "softmax": ((3.7087, -0.0798), (1.82e8, 0.7118), (2.56e10, 0.5102)),
    "lightning": ((3.5391, -0.0768), (2.74e8, 0.6470), (4.43e10, 0.4684)),
    "hybrid": ((3.4797, -0.0763), (2.57e8, 0.6670), (3.70e10, 0.4707)),
}


class ComputeOptimal(NamedTuple):
    """Loss in nats a token, and the parameters and tokens that reach it."""

    loss: float
    parameters: float
    tokens: float


def hybrid_flops(
    tokens: int, hidden_size: int, num_heads: int, num_layers: int, softmax_every: int | None = 8, batch: int = 1
) -> float:
    """Floating-point operations of one training step, forward and backward, head and embeddings left out.

    Parameters
    ----------
    tokens : length of a sequence
    softmax_every : every so-manieth layer attends with softmax, all others are lightning layers; 1 is a plain
        Transformer, None has lightning layers only
    """
    if min(tokens, hidden_size, num_heads, num_layers, batch) < 1 or (softmax_every is not None and softmax_every < 1):
        raise LightningError("tokens, sizes, layers, batch and softmax_every must be at least 1")
    softmax = 0.0 if softmax_every is None else 1.0 / softmax_every
    mixing = softmax * tokens / (6 * hidden_size) + (1 - softmax) / (2 * num_heads)
    return 72.0 * batch * tokens * num_layers * hidden_size**2 * (1 + mixing)


def compute_optimal(compute: float, architecture: Architecture) -> ComputeOptimal:
    """The published fit at `compute` PFLOP/s-days: the loss, and with how many parameters and tokens it is reached."""
    if compute <= 0 or architecture not in _FITS:
        raise LightningError(f"need compute > 0 and one of {', '.join(_FITS)}, given {compute} and '{architecture}'")
    return ComputeOptimal(*(coefficient * compute**exponent for coefficient, exponent in _FITS[architecture]))
