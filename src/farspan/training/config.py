"""The settings of a training run, as they stand in its YAML file.

One file says everything that shapes the result: architecture, tokenizer, data, curriculum, optimiser and seed.
Nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farspan.errors import FarspanError


class TrainConfigError(FarspanError):
    """A training file that cannot be read or does not fit together."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(_Settings):
    """A document source: where its class is, its settings, and what its tokens weigh in the loss."""

    source: str
    settings: dict[str, object] = {}
    loss_weight: float = Field(default=1.0, gt=0)


class Stage(_Settings):
    """A stretch of the curriculum: how many tokens, which row lengths and which sources, with their shares."""

    tokens: int = Field(gt=0)
    lengths: dict[int, float]
    mix: dict[str, float]
    shortest_document: int = Field(default=32, ge=2)

    @model_validator(mode="after")
    def _positive(self) -> Stage:
        if not self.lengths or not self.mix:
            raise ValueError("a stage needs at least one length and one source")
        if min(self.lengths) < self.shortest_document:
            raise ValueError(f"length {min(self.lengths)} is below shortest_document {self.shortest_document}")
        return self


class TokenizerConfig(_Settings):
    """A byte-level BPE tokenizer trained on the text of the named sources, or a folder to load one from."""

    path: str | None = None
    vocab_size: int = Field(default=4096, ge=512)
    corpus: tuple[SourceConfig, ...] = ()


class InitializationConfig(_Settings):
    """Random weights from which a small model with tied embeddings soon finds its attention heads.

    embedding_std : spread of the token embeddings
    common_direction : one coordinate of all embeddings, over their norm; heads that attend by position alone need
        something that all tokens share, and with tied embeddings it moves every logit alike
    final_norm : weight of the last norm, which keeps first logits small
    quiet_blocks : whether blocks begin by adding nothing, so that tokens stay readable in the residual stream
    """

    embedding_std: float = Field(gt=0)
    common_direction: float = Field(default=0.0, ge=0)
    final_norm: float = Field(default=1.0, gt=0)
    quiet_blocks: bool = False


class TrainConfig(_Settings):
    """Everything that decides the result of a training run.

    `levers` is a recipe, as a string or a file, that is on while training and off in the checkpoints' configuration at
    the end: with `e2:factor=8`, positions are drawn as that lever draws them.

    `model` holds keyword arguments of `transformers.AutoConfig.for_model`, or `{"path": folder}` to go on from a
    checkpoint. `learning_rate` is that of AdamW; matrices of the blocks use Muon at `muon_learning_rate` unless
    `optimizer` is `adamw`. The schedule `trapezoid` is warm-up, constant, then linear decay over the last
    `decay_fraction`; `cosine` is warm-up, then half a cosine down to `least_learning_rate` of the peak. `checkpointing`
    and `offload` say how memory is saved; by default as little is recomputed as the memory there is allows.
    `batch_tokens` are those of one process.
    """

    name: str
    seed: int = 0
    model: dict[str, object]
    initialization: InitializationConfig | None = None
    tokenizer: TokenizerConfig
    sources: dict[str, SourceConfig]
    stages: tuple[Stage, ...] = Field(min_length=1)
    levers: str = ""
    batch_tokens: int = Field(default=4096, gt=0)
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(default=2e-3, gt=0)
    muon_learning_rate: float = Field(default=2e-2, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["trapezoid", "cosine"] = "trapezoid"
    warmup_steps: int = Field(default=100, ge=0)
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    least_learning_rate: float = Field(default=0.1, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpointing: Literal["auto", "none", "selective", "full"] = "auto"
    offload: bool | None = None
    threads: int | None = Field(default=None, ge=1)
    save_steps: int = Field(default=200, gt=0)
    log_steps: int = Field(default=20, gt=0)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole curriculum."""
        return sum(stage.tokens for stage in self.stages) // self.batch_tokens

    @model_validator(mode="after")
    def _lengths_fit(self) -> TrainConfig:
        longest = max(length for stage in self.stages for length in stage.lengths)
        if longest > self.batch_tokens:
            raise ValueError(f"batch_tokens {self.batch_tokens} is below the longest row of {longest} tokens")
        unknown = {name for stage in self.stages for name in stage.mix} - set(self.sources)
        if unknown:
            raise ValueError(f"stages use sources that are not defined: {', '.join(sorted(unknown))}")
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainConfig:
        """Read a training file; `TrainConfigError` says in one line what is wrong with it."""
        try:
            document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise TrainConfigError(f"cannot read training file {path}: {error.strerror or error}") from error
        except yaml.YAMLError as error:
            raise TrainConfigError(f"training file {path} is not valid YAML: {str(error).splitlines()[0]}") from error
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()
            )
            raise TrainConfigError(f"training file {path}: {problems}") from error
