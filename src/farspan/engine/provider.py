"""The Inspect providers: registration only, so that listing tasks loads neither torch nor transformers.

`farspan/<folder or hub name>` and `farspan/reference` name a model, `farspan-diffusion/<folder>` a masked-diffusion
model; `-M path=... -M levers=...` give a label its model and recipe.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="farspan")
def farspan() -> type[ModelAPI]:
    """The class that Inspect builds for models named `farspan/...`."""
    from farspan.engine.inspect_api import FarspanAPI

    return FarspanAPI


@modelapi(name="farspan-diffusion")
def farspan_diffusion() -> type[ModelAPI]:
    """The class that Inspect builds for models named `farspan-diffusion/...`, masked-diffusion models."""
    from farspan.engine.diffusion_api import DiffusionAPI

    return DiffusionAPI
