"""Objectives: what a model is trained for, beside predicting the next token."""

from farspan.training.objectives.choice import trainer_class
from farspan.training.objectives.masked_diffusion import MaskedDiffusionTrainer, hide_tokens, masked_loss

__all__ = ["MaskedDiffusionTrainer", "hide_tokens", "masked_loss", "trainer_class"]
