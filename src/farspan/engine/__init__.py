"""Generation with a recipe switched on: batching, prefix reuse, token accounting, and the Inspect provider.

This room owns a loaded model for as long as an engine lives and turns token ids into token ids. It knows nothing of
tasks and scores, and it changes no model: levers are switched on by the caller or by `Engine.from_spec`. Names are
resolved when first used, so that registering the provider loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan.engine.denoiser import Denoiser as Denoiser
    from farspan.engine.denoiser import ModelDenoiser as ModelDenoiser
    from farspan.engine.diffusion_engine import DiffusionEngine as DiffusionEngine
    from farspan.engine.diffusion_sampling import DiffusionConfig as DiffusionConfig
    from farspan.engine.diffusion_sampling import generate_masked_diffusion as generate_masked_diffusion
    from farspan.engine.diffusion_sampling import num_transfer_tokens as num_transfer_tokens
    from farspan.engine.diffusion_scoring import CurvePoint as CurvePoint
    from farspan.engine.diffusion_scoring import cumulative_perplexity as cumulative_perplexity
    from farspan.engine.diffusion_scoring import diffusion_perplexity as diffusion_perplexity
    from farspan.engine.diffusion_scoring import likelihood_mask_counts as likelihood_mask_counts
    from farspan.engine.diffusion_scoring import perplexity_curve as perplexity_curve
    from farspan.engine.engine import Engine as Engine
    from farspan.engine.engine import EngineStats as EngineStats
    from farspan.engine.request import Request as Request
    from farspan.engine.request import RequestError as RequestError
    from farspan.engine.request import Result as Result
    from farspan.engine.request import TokenLogprob as TokenLogprob
    from farspan.engine.request import Usage as Usage
    from farspan.engine.spec import ModelSpec as ModelSpec
    from farspan.engine.spec import fingerprint as fingerprint

_NAMES = {
    "CurvePoint": "diffusion_scoring",
    "Denoiser": "denoiser",
    "DiffusionConfig": "diffusion_sampling",
    "DiffusionEngine": "diffusion_engine",
    "Engine": "engine",
    "EngineStats": "engine",
    "ModelDenoiser": "denoiser",
    "ModelSpec": "spec",
    "Request": "request",
    "RequestError": "request",
    "Result": "request",
    "TokenLogprob": "request",
    "Usage": "request",
    "cumulative_perplexity": "diffusion_scoring",
    "diffusion_perplexity": "diffusion_scoring",
    "fingerprint": "spec",
    "generate_masked_diffusion": "diffusion_sampling",
    "likelihood_mask_counts": "diffusion_scoring",
    "num_transfer_tokens": "diffusion_sampling",
    "perplexity_curve": "diffusion_scoring",
}

__all__ = [
    "CurvePoint",
    "Denoiser",
    "DiffusionConfig",
    "DiffusionEngine",
    "Engine",
    "EngineStats",
    "ModelDenoiser",
    "ModelSpec",
    "Request",
    "RequestError",
    "Result",
    "TokenLogprob",
    "Usage",
    "cumulative_perplexity",
    "diffusion_perplexity",
    "fingerprint",
    "generate_masked_diffusion",
    "likelihood_mask_counts",
    "num_transfer_tokens",
    "perplexity_curve",
]


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(importlib.import_module(f"farspan.engine.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'farspan.engine' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
