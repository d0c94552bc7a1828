"""A masked-diffusion model as an Inspect model, so that every benchmark runs on one unchanged.

Everything but the engine is the other provider's: prompts, usage, sharing, and a fingerprint that tells settings apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import ClassVar

from inspect_ai.model import GenerateConfig

from farspan.engine.inspect_api import FarspanAPI, ProviderError
from farspan.engine.shared import SharedEngine


class DiffusionAPI(FarspanAPI):
    """Model API of `farspan-diffusion/...`.

    Parameters
    ----------
    model_name, base_url, api_key, config : as for `farspan/...`
    model_args : fields of `ModelSpec` and of `DiffusionConfig`; temperature, seed and length come from the task

    Raises
    ------
    ProviderError, RequestError : an argument is unknown or out of range.
    FarspanError : the recipe cannot be built.
    """

    provider: ClassVar[str] = "farspan-diffusion"

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),
        **model_args: object,
    ) -> None:
        from farspan.engine.diffusion_sampling import DiffusionConfig

        names = {field.name for field in fields(DiffusionConfig)} - {"temperature", "seed"}
        given = {name: model_args.pop(name) for name in sorted(names & set(model_args))}
        try:
            self.diffusion = DiffusionConfig(**given)  # type: ignore[arg-type]
        except TypeError as error:
            raise ProviderError(f"diffusion settings have a value of the wrong kind: {error}") from error
        super().__init__(model_name, base_url, api_key, config, **model_args)
        both = f"{self.fingerprint}/{self.diffusion}"
        self.fingerprint = hashlib.sha256(both.encode()).hexdigest()[:16]
        self.base_url = f"farspan://{self.fingerprint}"

    def load(self) -> SharedEngine:
        """A new engine for this model."""
        from farspan.engine.diffusion_engine import DiffusionEngine

        return DiffusionEngine.from_spec(self.spec, self.diffusion)
