"""Which objective trains a model: decided by the model alone, so that every training command and lever serves all."""

from __future__ import annotations

from transformers import PreTrainedModel

from farspan.training.objectives.masked_diffusion import MaskedDiffusionTrainer
from farspan.training.trainer import LongTrainer


def trainer_class(model: PreTrainedModel) -> type[LongTrainer]:
    """Masked diffusion for a model that sees both ways and names a mask token, the next token for all others."""
    both_ways = getattr(model.config, "is_causal", True) is False
    named = getattr(model.config, "mask_token_id", None) is not None
    return MaskedDiffusionTrainer if both_ways and named else LongTrainer
