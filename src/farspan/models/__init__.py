"""Models: loading, the bundled reference model, and architectures that transformers lacks."""

from farspan.models.llada import from_llada
from farspan.models.loading import REFERENCE, load, model_path
from farspan.models.masked_diffusion import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig
from farspan.models.reference import reference_path, training_file

__all__ = [
    "REFERENCE",
    "MaskedDiffusionLlama",
    "MaskedDiffusionLlamaConfig",
    "from_llada",
    "load",
    "model_path",
    "reference_path",
    "training_file",
]
