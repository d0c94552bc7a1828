"""CLEX: the logarithms of the rotary frequencies flow with the scale of the window, along a learned differential
equation, so that one model serves every scale rather than the one it was trained at.

Here are the equation, its integration, the positions of training, and the lever that serves a learned flow. Learning it
belongs to the training room, which switches the lever on with a flow that takes gradients.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, model_validator
from transformers import PretrainedConfig

from farspan.errors import LeverNotApplicable
from farspan.positions.clex_flow import ClexDynamics, load_dynamics
from farspan.positions.drawn import Drawn, drawn_positions, own_inv_freq
from farspan.positions.length_following import length_following, refuse_to_follow
from farspan.positions.lever import PositionLever, Stretched, refuse_stretched
from farspan.positions.rope import RopeSpec, get_rope
from farspan.recipe import build_lever

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Sampling: TypeAlias = Literal["integer", "uniform", "log-uniform"]


def clex_positions_of(sample: torch.Tensor, seq_len: int, original_length: int, t: float) -> torch.Tensor:
    """Training positions of a sorted sample of `seq_len - 2` whole numbers: float32 [seq_len].

    Rows longer than the original window are squeezed, so that scale t always spans t windows.
    """
    squeeze = max(1, seq_len // original_length)
    inner = (sample.double() + 1) / squeeze
    last: float = math.floor(seq_len * t) // squeeze - 1
    if len(inner):
        # The official last position is a whole number, which positions between whole numbers can reach or pass.
        last = max(last, float(inner[-1]) + 1 / squeeze)
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), last)]).float()


def clex_train_positions(
    seq_len: int, original_length: int, t: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Random increasing positions that spread a short row over `t` windows: 0 first, the last of the window last.

    Parameters
    ----------
    seq_len : tokens of the row
    original_length : trained window of the model
    t : scale, at least 1; at 1 every whole position occurs, so the row is read as it is

    Returns
    -------
    Tensor [seq_len], float32

    Source: arXiv 2310.16450, section 3.3.
    """
    if seq_len < 2:
        return torch.zeros(seq_len)
    places = math.floor(seq_len * t) - 2
    sample = torch.randperm(places, generator=generator)[: seq_len - 2].sort().values
    return clex_positions_of(sample, seq_len, original_length, t)


def clex_inference_t(seq_len: int, original_length: int, max_factor: float, resolution: float = 1.0) -> float:
    """The scale of a sequence: the windows it needs, rounded up to a multiple of `resolution`, at most `max_factor`."""
    steps = math.ceil(seq_len / original_length / resolution - 1e-9)
    return min(max(1.0, steps * resolution), float(max_factor))


def clex_log_scale(length: int, original_length: int, least: float = 1.0) -> float:
    """Factor on queries that keeps attention from flattening: log length over log window, at least `least`."""
    return max(least, math.log(length) / math.log(original_length))


class ClexDraw:
    """The draws of a training pass: a scale, positions spread over it, and the frequencies of the flow at it.

    Parameters
    ----------
    dynamics : the flow; gradients reach it, divided by the mean position, which they grow with
    own : frequencies of the model, to the last bit, used at scale 1
    original_length, max_factor, sampling, per, time_dt : see `Clex`
    """

    def __init__(
        self,
        dynamics: ClexDynamics,
        own: torch.Tensor,
        attention_factor: float,
        original_length: int,
        max_factor: int,
        sampling: Sampling,
        per: Literal["batch", "sample"],
        time_dt: float,
    ) -> None:
        self.dynamics = dynamics
        self.own = own
        self.attention_factor = attention_factor
        self.original_length = original_length
        self.max_factor = max_factor
        self.sampling = sampling
        self.per = per
        self.time_dt = time_dt

    def scales(self, count: int, generator: torch.Generator) -> list[float]:
        """Random scales from 1 to `max_factor`."""
        shares = torch.rand(count, generator=generator, dtype=torch.float64)
        if self.sampling == "integer":
            drawn = (shares * self.max_factor).floor() + 1
        elif self.sampling == "uniform":
            drawn = 1 + shares * (self.max_factor - 1)
        else:
            drawn = self.max_factor**shares
        return [float(value) for value in drawn.clamp(1, self.max_factor)]

    def __call__(self, position_ids: torch.Tensor, batch: int, generator: torch.Generator) -> Drawn:
        rows = batch if self.per == "sample" else 1
        places = position_ids.long().cpu()
        if rows > 1:
            places = places.expand(rows, -1)
        length = int(places.max()) + 1
        scales = self.scales(rows, generator)
        spread = torch.stack([clex_train_positions(length, self.original_length, t, generator) for t in scales])
        # Documents of a packed row share the spread, each from its beginning.
        positions = spread.expand(len(places), -1).gather(1, places)
        distinct = sorted(set(scales))
        flow = self.dynamics.frequencies(distinct, self.time_dt).float()
        if flow.requires_grad:
            mean = float(positions.mean().clamp(min=1))
            flow.register_hook(lambda gradient: gradient / mean)  # type: ignore[no-untyped-call]
        # Adding nothing of the flow keeps a pass at scale 1 on the graph, where the flow alone is trained.
        table = [self.own + 0 * row if t == 1 else row for t, row in zip(distinct, flow, strict=True)]
        inv_freq = torch.stack([table[distinct.index(t)] for t in scales])
        return Drawn(positions.to(position_ids.device), inv_freq[:, None], self.attention_factor)


class Clex(PositionLever):
    """Frequencies at scale t solve `dz/dt = net(z, t) + d/dt log theta(t)` from the model's own at t = 1, where theta
    is an analytic path. Inputs of n tokens are read at t = n over the window, rounded up to a multiple of `resolution`;
    cached keys are turned along when t changes. Inputs within the window see the model's own frequencies. A checkpoint
    cannot follow the length: baked and exported, frequencies are frozen at the target length.

    While the lever is on, training draws t and spreads positions over t windows, so that `fine-tune` adapts the model
    to a given flow; the flow itself is learned by `farspan.training.fit_clex`.

    Fields
    ------
    max_factor : largest scale of training; longer inputs are read at it
    weights : path of the learned flow, set by the fit
    act : activation of the net; `none` leaves the net out, which needs no learned flow and shows what the net is worth
    param_factor : hidden units of the net over rotary channels
    path : `ntk` (a growing base, as in the paper), `linear` or `yarn`
    time_dt : step of the integration
    time_embedding_theta : base that the net's input is computed with, where it differs from the model's (10000 for
        flows of the official code)
    resolution : step of t at inference
    t_sampling : how training draws t: whole numbers, or between them, evenly or evenly in the logarithm
    per : training draws t once a `batch` or for each `sample`
    log_scale : sharpen attention beyond the window by the logarithm of t windows over that of one
    seed : of the draws, and of the net's beginning

    Source: arXiv 2310.16450.
    """

    name: ClassVar[str] = "clex"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "training"
    weights_fields: ClassVar[tuple[str, ...]] = ("weights",)
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)
    short_rows: ClassVar[bool] = True

    max_factor: int = Field(default=16, ge=2)
    weights: str | None = None
    act: Literal["tanh", "silu", "none"] = "tanh"
    param_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    path: Literal["ntk", "linear", "yarn"] = "ntk"
    time_dt: float = Field(default=0.25, gt=0, le=1)
    time_embedding_theta: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    resolution: float = Field(default=1.0, gt=0, le=1)
    t_sampling: Sampling = "integer"
    per: Literal["batch", "sample"] = "batch"
    log_scale: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _within_training(self) -> Clex:
        if self.factor > self.max_factor:
            raise ValueError(f"factor {self.factor:g} is above max_factor {self.max_factor}, the largest scale trained")
        return self

    def stretch(self, rope: RopeSpec) -> Stretched:
        """The flow at the target length."""
        target = round(rope.target_length * self.factor)
        t = clex_inference_t(target, rope.target_length, self.max_factor, self.resolution)
        (vector,) = self.dynamics(rope).frequencies([t], self.time_dt)
        return Stretched(vector, self.attention(rope, t))

    def attention(self, rope: RopeSpec, t: float) -> float:
        """The factor on cos and sin at scale t."""
        # On cos and sin, hence on queries and keys: every attention implementation then scales logits alike.
        length = round(t * rope.target_length)
        return math.sqrt(clex_log_scale(length, rope.target_length)) if self.log_scale and t > 1 else 1.0

    def fresh_dynamics(self, rope: RopeSpec) -> ClexDynamics:
        """A flow that has learned nothing: the analytic path itself, with a net that answers 0."""
        return ClexDynamics(
            rope.rotary_dim,
            rope.rope_theta,
            self.param_factor,
            self.act,
            self.time_embedding_theta,
            inv_freq=rope.inv_freq,
            kept=self._kept(rope),
            seed=self.seed,
        )

    def dynamics(self, rope: RopeSpec) -> ClexDynamics:
        """The learned flow, without gradients.

        Raises
        ------
        FarspanError : nothing is learned yet, or the file cannot be read.
        LeverNotApplicable : it was learned for another model or with other settings.
        """
        flow = self.fresh_dynamics(rope)
        if self.act != "none":
            load_dynamics(flow, self.weights, self.told(rope))
        return flow.requires_grad_(False)

    def told(self, rope: RopeSpec) -> dict[str, str]:
        """What a file of a learned flow says beside it, all of which must agree when it is used."""
        settings = {name: getattr(self, name) for name in ("act", "path", "time_embedding_theta", "max_factor")}
        told = {**settings, "original_length": rope.target_length, "rope_theta": rope.rope_theta}
        return {name: str(value) for name, value in told.items()}

    def _kept(self, rope: RopeSpec) -> torch.Tensor | None:
        """The share of each pair that does not shrink with the scale; None for the growing base."""
        if self.path == "ntk":
            return None
        lever = build_lever(self.path, {"factor": 2.0})
        assert isinstance(lever, PositionLever)
        # Halved where interpolated, whole where kept: the blend of `yarn` is the same at every scale.
        return 2 * lever.stretch(rope).inv_freq / rope.inv_freq - 1

    def plan(self, config: PretrainedConfig) -> RopeSpec:
        self.check_model(config)
        spec = super().plan(config)
        return replace(spec, params={name: value for name, value in spec.params.items() if name != "weights"})

    def check_model(self, config: PretrainedConfig) -> None:
        """Raise `LeverNotApplicable` if no flow, learned or not, fits a model of this configuration."""
        rope = get_rope(config, self.layer_type)
        if self.factor == 1:
            return
        if not self.compose:
            refuse_stretched(rope)
        refuse_to_follow(config, self.layer_type, "use yarn, which is static")
        if rope.rotary_dim < 4:
            raise LeverNotApplicable(f"clex needs at least 4 rotary channels, not {rope.rotary_dim}")
        if not bool((rope.inv_freq > 0).all()):
            raise LeverNotApplicable("clex needs frequencies above 0, and this model has pairs at rest")

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        """Follow the flow in evaluation and draw from it in training, for the length of the block."""
        if self.factor == 1:
            yield
            return
        with self.engaged(model, self.dynamics(get_rope(model.config, self.layer_type))):
            yield

    @contextmanager
    def engaged(self, model: PreTrainedModel, dynamics: ClexDynamics) -> Iterator[None]:
        """`switch_on` with a given flow, which gradients of training reach if it takes any.

        Evaluation inside the block sees the flow as it is when the block begins.
        """
        self.check_model(model.config)
        rope = get_rope(model.config, self.layer_type)
        own = own_inv_freq(model, rope.layer_type)
        draw = ClexDraw(
            dynamics,
            own,
            rope.attention_factor,
            rope.target_length,
            self.max_factor,
            self.t_sampling,
            self.per,
            self.time_dt,
        )
        spec = replace(
            rope,
            target_length=round(rope.target_length * self.factor),
            method=self.name,
            params=self.model_dump(mode="json", exclude_defaults=True, exclude={"weights"}),
        )
        served = ClexTable(self, rope, dynamics)
        with (
            length_following(model, spec, rope.target_length, served.frequencies, served.attention),
            drawn_positions(model, draw, rope.layer_type, self.seed),
        ):
            yield


class ClexTable:
    """The flow at all scales of inference, integrated once.

    Parameters
    ----------
    lever : settings
    rope : positions of the model as the lever finds them
    dynamics : the flow
    """

    def __init__(self, lever: Clex, rope: RopeSpec, dynamics: ClexDynamics) -> None:
        self.lever = lever
        self.rope = rope
        count = math.ceil(lever.max_factor / lever.resolution - 1e-9)
        scales = {1.0, *(step * lever.resolution for step in range(1, count)), float(lever.max_factor)}
        self.scales = sorted(t for t in scales if t >= 1)
        with torch.no_grad():
            flow = dynamics.frequencies(self.scales, lever.time_dt)
        self.vectors: dict[float, torch.Tensor] = dict(zip(self.scales, flow, strict=True))

    def scale(self, length: int) -> float:
        """t of a sequence of `length` tokens; beyond the largest scale a warning says that it is kept."""
        window, largest = self.rope.target_length, self.lever.max_factor
        if length > window * largest:
            warnings.warn(
                f"{length} tokens are beyond {largest} windows of {window}, the longest that clex was trained for; "
                "frequencies stay at those of the longest",
                stacklevel=2,
            )
        return clex_inference_t(length, window, largest, self.lever.resolution)

    def frequencies(self, length: int) -> torch.Tensor:
        """The vector for a sequence of `length` tokens: float64 [rotary_dim / 2]."""
        return self.vectors[self.scale(length)]

    def attention(self, length: int) -> float:
        """The factor on cos and sin for a sequence of `length` tokens."""
        return self.lever.attention(self.rope, self.scale(length))
