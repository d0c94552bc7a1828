"""Models: loading, the bundled reference model, and architectures that transformers lacks."""

from farspan.models.llada import from_llada
from farspan.models.loading import REFERENCE, load, model_path
from farspan.models.masked_diffusion import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig
from farspan.models.minimax import from_minimax, to_minimax
from farspan.models.mixer_model import MixerConfig, MixerForCausalLM, hybrid_mixers
from farspan.models.mixers import build_mixer
from farspan.models.reference import reference_path, training_file

__all__ = [
    "REFERENCE",
    "MaskedDiffusionLlama",
    "MaskedDiffusionLlamaConfig",
    "MixerConfig",
    "MixerForCausalLM",
    "build_mixer",
    "from_llada",
    "from_minimax",
    "hybrid_mixers",
    "load",
    "model_path",
    "reference_path",
    "to_minimax",
    "training_file",
]
