"""HoPE: hybrid position embedding for long videos. Fast pairs turn by height and width, the slowest do not turn at all.

Time acts through the diagonal that frames lie on, so no pair can be turned so far by a long video that keys of like
meaning fall behind others. The stride between frames is drawn anew in training and chosen at inference. Models that
were not trained this way break; the lever is for training and for what was trained with it.

Source: arXiv 2505.20444, section 4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.positions.apply import apply_rope, kept_positions, settle
from farspan.positions.multimodal import (
    AXES,
    Axis,
    Layout,
    VisionBlock,
    channel_routing,
    draw_scales,
    fitting_scale,
    mrope_positions,
    vision_blocks,
)
from farspan.positions.rope import RopeSpec, get_rope, text_config
from farspan.recipe import Lever

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")


class Hope(Lever):
    """Positions of text, images and videos by one of four layouts; `hope` is the method, the others are baselines.

    Fields
    ------
    layout : `hope`, `videorope`, `mrope` (the model's own) or `vanilla` (one count over all tokens)
    temporal_scales : strides between frames, one drawn for each image or video and forward pass in training
    inference_scale : the stride in evaluation; the paper takes 0.75 to retrieve and 1.5 to understand
    trained_index : if given, the stride in evaluation is instead the largest of the range of `temporal_scales` at which
        a video stays within this index
    temporal_pairs : pairs at rest (`hope`) or of time (`videorope`); the model's number for time by default
    seed : of the strides drawn; every process of a training run draws its own

    Strides concern `hope` and `videorope`. With `mrope` frames keep the distance the model was trained with.
    """

    name: ClassVar[str] = "hope"
    slot: ClassVar[str] = "positions"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "training"

    layout: Layout = "hope"
    temporal_scales: tuple[float, ...] = Field(default=(0.5, 0.75, 1.0, 1.25, 1.5), min_length=1)
    inference_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    trained_index: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    temporal_pairs: int | None = Field(default=None, ge=0)
    seed: int = 0

    @field_validator("temporal_scales")
    @classmethod
    def _scales_are_positive(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < scale < float("inf") for scale in scales):
            raise ValueError("every stride must be above 0")
        return scales

    def sections(self, config: PretrainedConfig) -> list[int]:
        """Pairs of time, height and width, with `temporal_pairs` in place of the model's own.

        Raises
        ------
        LeverNotApplicable : the model has no multimodal rotary positions, or fewer pairs than asked for.
        """
        if getattr(config, "model_type", None) not in MODEL_TYPES:
            raise LeverNotApplicable(
                f"lever 'hope' works on vision-language models of type {' and '.join(MODEL_TYPES)}, "
                f"not on '{getattr(config, 'model_type', '')}'"
            )
        parameters = text_config(config).rope_parameters or {}
        found = parameters.get("mrope_section")
        if not found:
            raise LeverNotApplicable(
                "rope_parameters name no mrope_section; write the pairs of time, height and width there"
            )
        sections = [int(pairs) for pairs in found]
        if self.temporal_pairs is not None:
            rest = sum(sections) - self.temporal_pairs
            if rest < 2:
                raise LeverNotApplicable(
                    f"temporal_pairs={self.temporal_pairs} leaves {max(rest, 0)} of {sum(sections)} pairs for height "
                    "and width; leave at least 2"
                )
            sections = [self.temporal_pairs, rest - rest // 2, rest // 2]
        return sections

    def axes(self, config: PretrainedConfig) -> list[Axis]:
        """The coordinate of every rotary pair, fastest first."""
        head_dim = get_rope(config).head_dim
        return channel_routing(self.layout, self.sections(config), head_dim)[: head_dim // 2]

    def check(self, config: PretrainedConfig) -> None:
        """Raise `LeverNotApplicable` if a model of this configuration cannot take the lever."""
        self.axes(config)
        record = _record(config)
        if record and record != self._wiring():
            raise LeverNotApplicable(f"the checkpoint was written with {_shown(record)}; set the lever to the same")

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        """Turn pairs and place tokens by the layout for the length of the block; the model is then as it was.

        A checkpoint that `bake` made turns its pairs by itself, and only gets the positions.
        """
        inner = _inner(model)
        language_model = inner.language_model
        rotary, deltas = language_model.rotary_emb, inner.rope_deltas
        if isinstance(rotary, HopeRotary) or "get_rope_index" in inner.__dict__:
            raise LeverNotApplicable("multimodal positions are changed already; leave the other lever out")
        if not _record(model.config):
            language_model.rotary_emb = HopeRotary(_own_frequencies(model, rotary), self.axes(model.config), rotary)
        inner.get_rope_index = RopeIndex(self, inner)
        inner.rope_deltas = None
        try:
            yield
        finally:
            language_model.rotary_emb = rotary
            del inner.get_rope_index
            inner.rope_deltas = deltas

    def bake(self, model: PreTrainedModel) -> None:
        """Write the turning of pairs into weights and configuration; positions of videos stay the caller's business.

        Channels of queries and keys are reordered so that consecutive pairs, as plain transformers deals them out, are
        those at rest, those of height and those of width. Text needs nothing more; with images and videos the model
        must be given `position_ids` of `mrope_positions`, or this lever. Servers that count positions on their own,
        vLLM among them, cannot run it.

        Raises
        ------
        LeverNotApplicable : written already, or a layout that changes positions alone.
        """
        spec, order = self._plan(model.config)
        _reorder(model, order)
        try:
            apply_rope(model, spec, "longrope")
        except LeverNotApplicable:
            _reorder(model, _inverse(order))
            raise

    def place(
        self, model: PreTrainedModel, input_ids: torch.Tensor, **inputs: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`position_ids` [3, batch, length] and deltas [batch, 1] for a model, switched on or not.

        `inputs` are `attention_mask`, `image_grid_thw`, `video_grid_thw` and, for Qwen2.5-VL, `second_per_grid_ts`.
        """
        return RopeIndex(self, _inner(model))(input_ids, **inputs)

    def _wiring(self) -> dict[str, object]:
        return {"layout": self.layout, "temporal_pairs": self.temporal_pairs}

    def _plan(self, config: PretrainedConfig) -> tuple[RopeSpec, list[int]]:
        """The rotary positions of the written checkpoint, and the order in which it takes the model's pairs."""
        self.check(config)
        if self.layout not in ("hope", "videorope"):
            raise LeverNotApplicable(
                f"layout '{self.layout}' changes positions alone, which no checkpoint holds; use the lever at run time"
            )
        if _record(config):
            raise LeverNotApplicable("the checkpoint has this layout written into it already")
        axes, rope = self.axes(config), get_rope(config)
        groups = [[pair for pair, axis in enumerate(axes) if axis in wanted] for wanted in (("nope", "t"), "h", "w")]
        order = [pair for group in groups for pair in group]
        resting = torch.tensor([axes[pair] == "nope" for pair in order])
        spec = replace(
            rope,
            inv_freq=rope.inv_freq[order].masked_fill(resting, 0.0),
            method=self.name,
            params=self._wiring(),
            native=None,
            carried={**rope.carried, "mrope_section": [len(group) for group in groups]},
        )
        settle(text_config(config), spec, "longrope")
        return spec, order


class HopeRotary(nn.Module):
    """A rotary module in which every pair turns by its own coordinate.

    Parameters
    ----------
    inv_freq : Tensor [pairs], float32, the model's own frequencies
    axes : the coordinate of each pair; `nope` for rest
    base : the module it stands in for, of which it keeps the factor on cos and sin
    """

    def __init__(self, inv_freq: torch.Tensor, axes: list[Axis], base: nn.Module) -> None:
        super().__init__()
        resting = torch.tensor([axis == "nope" for axis in axes], device=inv_freq.device)
        rows = [0 if axis == "nope" else AXES.index(axis) for axis in axes]
        self.inv_freq = nn.Buffer(inv_freq.masked_fill(resting, 0.0), persistent=False)
        self.rows = nn.Buffer(torch.tensor(rows, device=inv_freq.device), persistent=False)
        self.attention_scaling = float(getattr(base, "attention_scaling", 1.0))
        self.train(base.training)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [batch, length, 2 * pairs] in the type of `x`, from positions [3, batch, length] of any type."""
        rows, inv_freq = self.rows.to(x.device), self.inv_freq.to(device=x.device, dtype=torch.float32)
        coordinates = position_ids.to(x.device).float().expand(3, -1, -1).index_select(0, rows)
        angles = coordinates.movedim(0, -1) * inv_freq
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(x.dtype), torch.cat((sin, sin), dim=-1).to(x.dtype)


class RopeIndex:
    """Stands in for a model's `get_rope_index`: the same arguments, positions by the lever's layout, not rounded."""

    def __init__(self, lever: Hope, model: nn.Module) -> None:
        self.lever = lever
        self.model = model
        self.config: Any = model.config
        self.generator = torch.Generator().manual_seed(lever.seed + _rank())

    def __call__(
        self,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **ignored: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions float32 [3, batch, length]; deltas [batch, 1] counted, as transformers does, without padding."""
        config = self.config
        inputs = (input_ids, attention_mask, image_grid_thw, video_grid_thw)
        found = partial(
            vision_blocks,
            spatial_merge_size=config.vision_config.spatial_merge_size,
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
        )
        scales = self.scales(found(*inputs), second_per_grid_ts)
        positions, deltas = mrope_positions(*inputs, **found.keywords, layout=self.lever.layout, temporal_scale=scales)
        if attention_mask is not None:
            deltas = deltas + (input_ids.shape[1] - attention_mask.sum(-1, keepdim=True))
        return positions, deltas

    def scales(self, blocks: list[VisionBlock], second_per_grid_ts: torch.Tensor | None = None) -> list[float]:
        """The stride of each block: drawn in training, chosen in evaluation, the model's own for `mrope`."""
        lever = self.lever
        if lever.layout == "vanilla":
            return [1.0] * len(blocks)
        if lever.layout == "mrope":
            rate = float(getattr(self.config.vision_config, "tokens_per_second", 1))
            seconds = iter([] if second_per_grid_ts is None else [float(value) for value in second_per_grid_ts])
            return [rate * next(seconds, 1.0) if block.video else 1.0 for block in blocks]
        if self.model.training:
            return draw_scales(len(blocks), lever.temporal_scales, self.generator)
        if lever.trained_index is not None:
            return [fitting_scale(block.frames, lever.trained_index, lever.temporal_scales) for block in blocks]
        return [lever.inference_scale] * len(blocks)


def save_hope(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, out_dir: str | Path, lever: Hope
) -> Path:
    """Write a checkpoint whose pairs turn by `lever` in plain transformers; see `Hope.bake` for what it leaves out.

    Parameters
    ----------
    model : trained with the lever; afterwards as it was
    tokenizer : a tokenizer or processor saved beside it, or None

    Returns
    -------
    The folder.

    Raises
    ------
    LeverNotApplicable : see `Hope.bake`.
    FarspanError : the folder cannot be written.
    """
    folder = Path(out_dir).expanduser()
    _, order = lever._plan(model.config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with kept_positions(model):
            lever.bake(model)
            try:
                model.save_pretrained(folder)
            finally:
                _reorder(model, _inverse(order))
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except OSError as error:
        raise FarspanError(f"cannot write a checkpoint to {folder}: {error.strerror or error}") from error
    return folder


def _inner(model: nn.Module) -> Any:
    """The module that joins vision tower and language model, and that transformers asks for positions."""
    for module in model.modules():
        if callable(getattr(module, "get_rope_index", None)) and hasattr(module, "language_model"):
            return module
    raise LeverNotApplicable(f"{type(model).__name__} has no language model that takes multimodal positions")


def _own_frequencies(model: PreTrainedModel, rotary: nn.Module) -> torch.Tensor:
    """The model's frequencies in float32, also where a conversion to half precision took the buffer along."""
    inv_freq = rotary.inv_freq
    assert isinstance(inv_freq, torch.Tensor)
    if inv_freq.dtype == torch.float32:
        return inv_freq
    return get_rope(model.config).inv_freq.to(device=inv_freq.device, dtype=torch.float32)


@torch.no_grad()
def _reorder(model: nn.Module, order: list[int]) -> None:
    """Take the pairs of every query and key head in another order."""
    for layer in _inner(model).language_model.layers:
        attention = layer.self_attn
        channels = torch.tensor([*order, *(pair + len(order) for pair in order)])
        for projection in (attention.q_proj, attention.k_proj):
            for parameter in (projection.weight, projection.bias):
                if isinstance(parameter, torch.Tensor):
                    heads = parameter.view(-1, len(channels), *parameter.shape[1:])
                    heads.copy_(heads[:, channels.to(parameter.device)])


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _record(config: PretrainedConfig) -> dict[str, object]:
    """What `bake` wrote into a configuration; empty for any other model."""
    found = getattr(text_config(config), "farspan", None)
    if not isinstance(found, dict) or found.get("method") != Hope.name:
        return {}
    return dict(found.get("params", {}))


def _shown(record: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in record.items() if value is not None)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
