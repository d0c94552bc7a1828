"""E2-LLM: one training run on short text, with random scales and shifts of the positions, serves many windows.

In training each document is read as if it stood somewhere in a longer window: positions are shifted by a random offset
and squeezed by a random factor. Afterwards any factor works at inference, with the same weights. Nothing is trained
here; any training that runs while the lever is on sees the draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, ValidationInfo, field_validator
from transformers import PretrainedConfig

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import applied
from farspan.positions.drawn import Drawn, drawn_positions, own_inv_freq
from farspan.positions.length_following import length_following, refuse_to_follow
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec, get_rope
from farspan.recipe import build_lever

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ScaleSampling: TypeAlias = Literal["uniform", "log-uniform"] | tuple[float, ...]

USABLE_BEYOND = 1.5
"""Factors up to this multiple of the largest trained one kept perplexity in the paper (trained to 20, good to 30)."""


def e2_positions(
    train_length: int, g: torch.Tensor | float, t: torch.Tensor | int, num_sink_tokens: int = 4
) -> torch.Tensor:
    """Positions of a training row: the first tokens at m / g, the others at (m + t) / g.

    Parameters
    ----------
    train_length : tokens of the row
    g, t : scale and offset, of any common shape [...]
    num_sink_tokens : tokens at the beginning that are never shifted

    Returns
    -------
    Tensor [..., train_length], float32

    Source: arXiv 2401.06951, section 3.2.
    """
    m = torch.arange(train_length, dtype=torch.float64)
    scale, offset = (torch.as_tensor(value, dtype=torch.float64)[..., None] for value in (g, t))
    return ((m + offset * (m >= num_sink_tokens)) / scale).float()


def e2_max_offset(train_length: int, original_length: int, g: int) -> int:
    """The largest shift at which the last position, divided by `g`, still lies in the original window."""
    return max(0, g * original_length - train_length)


def e2_inference_scale(
    seq_len: int, original_length: int, max_scale: float | None = None, integer: bool = True
) -> float:
    """The scale for a sequence: its length over the original window, at least 1 and at most `max_scale`.

    Parameters
    ----------
    integer : round up to a whole number, as trained, rather than take the ratio itself
    """
    ratio = seq_len / original_length
    scale = max(1.0, math.ceil(ratio) if integer else ratio)
    return scale if max_scale is None else min(scale, max_scale)


@dataclass(frozen=True)
class ScaleOffsetAugment:
    """Draws scales and offsets for documents of given lengths.

    Attributes
    ----------
    original_length : trained window of the model
    max_factor : largest scale
    min_factor : smallest scale; by default the smallest that keeps a document inside the original window
    scale_sampling : `uniform` over whole numbers, `log-uniform`, or the weights of scales 1, 2, 3, ...
    num_chunks : stretches of a document with offsets of their own, rising; 1 in the paper
    replay : probability of a plain document, scale 1 and offset 0
    """

    original_length: int
    max_factor: int = 20
    min_factor: int | None = None
    scale_sampling: ScaleSampling = "uniform"
    num_chunks: int = 1
    replay: float = 0.0

    def draw(self, lengths: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales int64 [documents] and rising offsets int64 [documents, num_chunks] for lengths int64 [documents].

        Source: arXiv 2401.06951, algorithm 1; offsets are bounded by the scale drawn with them, so that no position
        leaves the window the model knows.
        """
        weights = self._weights().repeat(len(lengths), 1)
        lowest = torch.ceil(lengths / self.original_length).long() if self.min_factor is None else self.min_factor
        lowest = torch.as_tensor(lowest).clamp(1, self.max_factor).expand(len(lengths))
        scales = torch.arange(1, self.max_factor + 1)
        weights[scales < lowest[:, None]] = 0
        if not bool((weights.sum(-1) > 0).all()):
            raise LeverNotApplicable(
                f"scale_sampling gives no weight to scales that a document of {int(lengths.max())} tokens needs "
                f"({int(lowest.max())} to {self.max_factor}); train on shorter documents or give them weight"
            )
        g = torch.multinomial(weights, 1, generator=generator)[:, 0] + 1
        room = (g * self.original_length - lengths).clamp(min=0)
        shares = torch.rand(len(lengths), self.num_chunks, dtype=torch.float64, generator=generator)
        t = torch.minimum((shares * (room[:, None] + 1)).floor().long(), room[:, None]).sort(-1).values
        if self.replay:
            plain = torch.rand(len(lengths), generator=generator) < self.replay
            g, t = g.masked_fill(plain, 1), t.masked_fill(plain[:, None], 0)
        return g, t

    def _weights(self) -> torch.Tensor:
        g = torch.arange(1, self.max_factor + 1, dtype=torch.float64)
        if self.scale_sampling == "uniform":
            return torch.ones_like(g)
        if self.scale_sampling == "log-uniform":
            return torch.log1p(1 / g)
        given = torch.tensor(self.scale_sampling, dtype=torch.float64)[: self.max_factor]
        return torch.nn.functional.pad(given, (0, self.max_factor - len(given)))


class ScaleOffsetDraw:
    """The draws of a training pass as positions and frequencies; documents of packed rows are drawn apart.

    A document begins where `position_ids` are 0. Positions stay whole numbers and frequencies are those of the scale,
    which is the same angle as a position divided by the scale.

    Parameters
    ----------
    augment : the sampler
    table : scale to Tensor [rotary_dim / 2], float32, and attention factor
    num_sink_tokens : tokens at the beginning of a document that are never shifted
    per : `sample` draws each document for itself, `batch` once a pass
    """

    def __init__(
        self,
        augment: ScaleOffsetAugment,
        table: list[tuple[torch.Tensor, float]],
        num_sink_tokens: int,
        per: Literal["sample", "batch"],
    ) -> None:
        self.augment = augment
        self.inv_freq = torch.stack([inv_freq for inv_freq, _ in table])
        self.attention = torch.tensor([factor for _, factor in table])
        self.num_sink_tokens = num_sink_tokens
        self.per = per

    def __call__(self, position_ids: torch.Tensor, batch: int, generator: torch.Generator) -> Drawn:
        places = position_ids.cpu().long()
        if self.per == "sample":
            places = places.expand(batch, -1)
        begins = places == 0
        begins[:, 0] = True
        documents = begins.flatten().cumsum(0).reshape(places.shape) - 1
        lengths = torch.zeros(int(documents[-1, -1]) + 1, dtype=torch.long)
        lengths = lengths.scatter_reduce(0, documents.flatten(), places.flatten() + 1, "amax")
        if int(lengths.max()) <= self.num_sink_tokens:
            warnings.warn(
                f"no document is longer than the {self.num_sink_tokens} tokens that are never shifted; offsets have "
                "no effect",
                stacklevel=2,
            )
        if self.per == "batch":
            documents = torch.zeros_like(documents)
            lengths = lengths.max()[None]
        g, offsets = self.augment.draw(lengths, generator)
        breaks = torch.rand(len(lengths), self.augment.num_chunks - 1, generator=generator, dtype=torch.float64)
        breaks = self.num_sink_tokens + breaks * (lengths[:, None] - self.num_sink_tokens).clamp(min=0)
        chunk = (places[..., None] >= breaks[documents]).sum(-1, keepdim=True)
        shift = offsets[documents].gather(-1, chunk)[..., 0] * (places >= self.num_sink_tokens)
        scale = g[documents[:, :1]] if len(lengths) <= len(places) else g[documents]
        device = position_ids.device
        return Drawn(
            (places + shift).float().to(device),
            self.inv_freq[scale - 1].to(device),
            self.attention[scale - 1][..., None].to(device),
        )


class E2LLM(PositionLever):
    """Random scale and offset in training, any factor at inference.

    In training a document of R tokens gets a scale g from 1 to `max_factor` and an offset t up to g L - R, for a window
    of L; its tokens but the first `num_sink_tokens` are shifted by t, and all positions divided by g. In evaluation the
    positions are divided by `factor`, or by the length over the window, rounded up, where `automatic`. Switch the lever
    on, train (the lever `fine-tune`, or any trainer), and use the weights at every factor.

    Fields
    ------
    max_factor, min_factor, scale_sampling, num_chunks, replay : see `ScaleOffsetAugment`
    num_sink_tokens : tokens at the beginning of a document that are never shifted
    per : `sample` draws each document for itself, `batch` once a forward pass
    family : how a scale changes frequencies; `linear` is the paper's, others are position levers at their defaults
    automatic : follow the length of the present sequence, up to `factor`; cached keys are turned along
    seed : of the draws

    Source: arXiv 2401.06951, section 3.
    """

    name: ClassVar[str] = "e2"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "training"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)
    short_rows: ClassVar[bool] = True

    max_factor: int = Field(default=20, ge=1)
    min_factor: int | None = Field(default=None, ge=1)
    num_sink_tokens: int = Field(default=4, ge=0)
    scale_sampling: ScaleSampling = "uniform"
    per: Literal["sample", "batch"] = "sample"
    num_chunks: int = Field(default=1, ge=1)
    replay: float = Field(default=0.0, ge=0, lt=1)
    family: Literal["linear", "ntk", "yarn", "llama3"] = "linear"
    automatic: bool = False
    seed: int = 0

    @field_validator("min_factor")
    @classmethod
    def _below_the_largest(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > info.data.get("max_factor", value):
            raise ValueError(f"must not be above max_factor {info.data['max_factor']}")
        return value

    @field_validator("scale_sampling")
    @classmethod
    def _weights_make_sense(cls, value: ScaleSampling) -> ScaleSampling:
        if not isinstance(value, str) and (any(not weight >= 0 for weight in value) or not 0 < sum(value) < math.inf):
            raise ValueError("weights of scales must be finite, not negative and not all 0")
        return value

    def stretch(self, rope: RopeSpec) -> Stretched:
        return self._at(rope, self.factor)

    def _at(self, rope: RopeSpec, scale: float) -> Stretched:
        lever = build_lever(self.family, {"factor": scale})
        assert isinstance(lever, PositionLever)
        return lever.stretch(rope)

    def plan(self, config: PretrainedConfig) -> RopeSpec:
        if self.factor > USABLE_BEYOND * self.max_factor:
            warnings.warn(
                f"factor {self.factor:g} is far above the largest one drawn in training ({self.max_factor}); "
                f"up to {USABLE_BEYOND * self.max_factor:g} has been found usable",
                stacklevel=2,
            )
        return super().plan(config)

    def check(self, config: PretrainedConfig) -> None:
        super().check(config)
        if self.automatic:
            refuse_to_follow(config, self.layer_type, "leave automatic out")

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        """Serve `factor` in evaluation and draw in training, for the length of the block."""
        if self.factor == 1:
            yield
            return
        rope = get_rope(model.config, self.layer_type)
        draw = self.draw(model)
        with self._served(model, rope), drawn_positions(model, draw, rope.layer_type, self.seed):
            yield

    def draw(self, model: PreTrainedModel) -> ScaleOffsetDraw:
        """The draws of training for a model whose positions are as the lever finds them."""
        rope = get_rope(model.config, self.layer_type)
        own = own_inv_freq(model, rope.layer_type)
        table = [(own, rope.attention_factor)]
        for scale in range(2, self.max_factor + 1):
            new = self._at(rope, scale)
            table.append((new.inv_freq.float(), rope.attention_factor * new.attention_factor))
        augment = ScaleOffsetAugment(
            rope.target_length,
            self.max_factor,
            self.min_factor,
            self.scale_sampling,
            self.num_chunks,
            self.replay,
        )
        return ScaleOffsetDraw(augment, table, self.num_sink_tokens, self.per)

    def _served(self, model: PreTrainedModel, rope: RopeSpec) -> AbstractContextManager[object]:
        spec = self.plan(model.config)
        if not self.automatic:
            return applied(model, spec)
        window = rope.target_length

        @lru_cache
        def at(length: int) -> Stretched:
            return self._at(rope, e2_inference_scale(length, window, self.factor))

        return length_following(
            model,
            replace(spec, native=rope.native),
            window,
            lambda length: at(length).inv_freq,
            lambda length: at(length).attention_factor,
        )
