"""The rotary positions of a model as one object: a frequency vector, an attention factor, and where they came from.

Everything a stretching method decides ends up in a `RopeSpec`. This module reads the present state of a configuration
and turns rotary parameters into frequencies through the functions transformers itself registers, so that a plan made
here and a model built there agree. It changes no model and writes no file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from farspan.errors import LeverNotApplicable

SCALING_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "short_factor",
        "long_factor",
        "short_mscale",
        "long_mscale",
        "low_freq_factor",
        "high_freq_factor",
        "partial_rotary_factor",
    }
)
"""Keys of rotary parameters that say how frequencies are made; others belong to the model and are carried along."""

UNSTRETCHED_TYPES = frozenset({"default", "proportional"})
ZERO_FACTOR = 1e30
"""The `longrope` factor of a pair that does not rotate: JSON has no infinity, and at 1e-30 the angle is 0 in float32
at any position."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RopeSpec:
    """Rotary frequencies, and all that is needed to install and export them.

    Attributes
    ----------
    inv_freq : Tensor [rotary_dim / 2], float64, radians a token in the model's pair order, 0 for a pair at rest
    attention_factor : cos and sin are multiplied by it, so logits of the rotary channels scale by its square
    rope_theta : base of the model's own frequencies, in which export factors are expressed
    head_dim : channels of a head, of which the first `partial_rotary_factor` rotate
    original_length, target_length : window the model was trained on, and the window it is stretched to, in tokens
    method, params : what made the vector, recorded in checkpoints and reports
    native : rotary parameters of transformers that give exactly this vector, None if there are none
    layer_type : entry of a layer-typed configuration the vector belongs to, None where all layers share one
    carried : keys of the model's rotary parameters that do not concern frequencies (multimodal sections and the like)
    """

    inv_freq: torch.Tensor
    attention_factor: float = 1.0
    rope_theta: float
    head_dim: int
    partial_rotary_factor: float = 1.0
    original_length: int
    target_length: int
    method: str
    params: dict[str, object] = field(default_factory=dict)
    native: dict[str, object] | None = None
    layer_type: str | None = None
    carried: dict[str, object] = field(default_factory=dict)

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that rotate, pairs at rest included."""
        return 2 * self.inv_freq.shape[0]

    @property
    def stretched(self) -> bool:
        """Whether a method has already changed the model's own frequencies."""
        return self.method not in UNSTRETCHED_TYPES

    @property
    def wavelengths(self) -> torch.Tensor:
        """Tokens of one full turn of each pair, infinite at rest: float64 [rotary_dim / 2]."""
        return 2 * math.pi / self.inv_freq

    def turns(self, length: int | None = None) -> torch.Tensor:
        """Full turns of each pair within `length` tokens (the original window): float64 [rotary_dim / 2].

        A pair below one turn shows the model only part of its circle; stretching leads it into angles never trained.
        """
        return self.inv_freq * (length or self.original_length) / (2 * math.pi)


def default_inv_freq(rope_theta: float, rotary_dim: int) -> torch.Tensor:
    """Unscaled frequencies `theta^(-2i/d)`: float64 [rotary_dim / 2].

    Source: arXiv 2104.09864, section 3.2.
    """
    return torch.pow(float(rope_theta), -torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)


def rope_frequencies(
    rope_parameters: Mapping[str, object],
    head_dim: int,
    max_position_embeddings: int,
    seq_len: int | None = None,
) -> tuple[torch.Tensor, float]:
    """Frequencies that transformers computes for flat rotary parameters.

    Parameters
    ----------
    rope_parameters : `rope_type`, `rope_theta` and the keys of that type, as in a model's configuration
    head_dim : channels of a head
    max_position_embeddings : window of the configuration
    seq_len : length of the sequence, for the types that depend on it (`dynamic`, `longrope`)

    Returns
    -------
    (inv_freq float32 [rotary_dim / 2], attention factor)

    Raises
    ------
    LeverNotApplicable : unknown `rope_type`, or a key it requires is missing.
    """
    parameters = dict(rope_parameters)
    rope_type = str(parameters.setdefault("rope_type", "default"))
    parameters["rope_theta"] = parameters.get("rope_theta") or PretrainedConfig.default_theta
    if rope_type == "default":
        # The unscaled type is computed by each model class; linear with factor 1 divides it by one.
        parameters |= {"rope_type": "linear", "factor": 1.0}
    compute = ROPE_INIT_FUNCTIONS.get(str(parameters["rope_type"]))
    if compute is None:
        known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
        raise LeverNotApplicable(f"rope_type '{rope_type}' is not known to transformers; it has: {known}")
    config = PretrainedConfig()
    config.head_dim = head_dim
    config.hidden_size = head_dim
    config.num_attention_heads = 1
    config.max_position_embeddings = max_position_embeddings
    config.rope_parameters = parameters
    try:
        inv_freq, attention_factor = compute(config, device=torch.device("cpu"), seq_len=seq_len)
    except KeyError as error:
        raise LeverNotApplicable(f"rotary parameters of type '{rope_type}' need the key {error}") from error
    return inv_freq, float(attention_factor)


def to_longrope_factors(
    inv_freq: torch.Tensor | Sequence[float], rope_theta: float, head_dim: int, zero_factor: float = ZERO_FACTOR
) -> list[float]:
    """Divisors by which `longrope` turns the model's own frequencies into any given vector.

    Parameters
    ----------
    inv_freq : wanted frequencies [rotary_dim / 2], all >= 0
    rope_theta : base of the model's own frequencies
    head_dim : rotary channels of a head, twice the length of `inv_freq`
    zero_factor : divisor written for a frequency of 0

    Raises
    ------
    LeverNotApplicable : a frequency is negative or not finite, or the vector's length is not `head_dim / 2`.
    """
    wanted = torch.as_tensor(inv_freq, dtype=torch.float64)
    own = default_inv_freq(rope_theta, head_dim)
    if wanted.shape != own.shape:
        raise LeverNotApplicable(
            f"a frequency vector of {wanted.numel()} values does not fit a rotary dimension of {head_dim}; "
            f"give {own.numel()}, one a pair"
        )
    if not bool((torch.isfinite(wanted) & (wanted >= 0)).all()):
        raise LeverNotApplicable("rotary frequencies must be finite and not negative; write 0 for a pair at rest")
    return [zero_factor if new == 0 else base / new for base, new in zip(own.tolist(), wanted.tolist(), strict=True)]


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the language model inside: itself, except for models of several modalities."""
    try:
        return config.get_text_config()
    except ValueError as error:
        raise LeverNotApplicable(
            f"model type '{config.model_type}' has several text models; pass one of them"
        ) from error


def find_layer_type(config: PretrainedConfig, layer_type: str | None = None) -> str | None:
    """The entry of the rotary parameters to change: None where all layers share one.

    Layer-typed configurations give the layers that see the whole context; sliding layers never meet a distance they
    were not trained on, so they stay as they are unless named.

    Raises
    ------
    LeverNotApplicable : the model has no rotary positions, or no such entry.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict) or not parameters or getattr(config, "alibi", False):
        raise LeverNotApplicable(
            f"model type '{config.model_type}' has no rotary positions; position levers need a model with "
            "rope_parameters in its configuration (Llama, Qwen, Mistral, Gemma, Phi and the like)"
        )
    entries = {key: value for key, value in parameters.items() if isinstance(value, dict)}
    if not entries:
        if layer_type is not None:
            raise LeverNotApplicable(f"all layers of '{config.model_type}' share one rotary; leave layer_type out")
        return None
    if layer_type is None:
        whole = [key for key in entries if "sliding" not in key]
        layer_type = "full_attention" if "full_attention" in whole or len(whole) != 1 else whole[0]
    if layer_type not in entries:
        raise LeverNotApplicable(
            f"'{config.model_type}' has no rotary positions for layer type '{layer_type}'; "
            f"set layer_type to one of: {', '.join(entries)}"
        )
    return layer_type


def get_rope(config: PretrainedConfig, layer_type: str | None = None) -> RopeSpec:
    """The rotary positions a model has now.

    Parameters
    ----------
    config : configuration of the model; for several modalities the text model's is taken
    layer_type : entry of a layer-typed configuration; the layers that see the whole context if left out

    Returns
    -------
    The effective vector at the model's present window. Its `native` form is the configuration's own, its `method` the
    recorded one, or the `rope_type`; `original_length` is the window before any stretching that the file tells of.

    Raises
    ------
    LeverNotApplicable : no rotary positions, no window, or frequencies that cannot be read from the configuration.
    """
    config = text_config(config)
    layer_type = find_layer_type(config, layer_type)
    parameters = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    view = _layer_view(config, layer_type)
    window = getattr(view, "max_position_embeddings", None)
    if not isinstance(window, int) or window < 1:
        raise LeverNotApplicable(f"model type '{config.model_type}' names no window (max_position_embeddings)")
    head_dim = getattr(view, "head_dim", None) or view.hidden_size // view.num_attention_heads
    rope_type = str(parameters.get("rope_type", parameters.get("type", "default")))
    theta = parameters.get("rope_theta") or getattr(config, "rope_theta", None) or 10_000.0
    part = float(parameters.get("partial_rotary_factor") or 1.0)
    if rope_type == "default":
        inv_freq, attention_factor = default_inv_freq(theta, _even(int(head_dim * part))), 1.0
    else:
        narrow, attention_factor = rope_frequencies({**parameters, "rope_theta": theta}, head_dim, window, window)
        inv_freq = narrow.double()
    if 2 * inv_freq.shape[0] != _even(int(head_dim * part)):
        part = 2 * inv_freq.shape[0] / head_dim
    record = getattr(config, "farspan", None)
    recorded = record if isinstance(record, dict) and record.get("layer_type") == layer_type else {}
    trained = parameters.get("original_max_position_embeddings", window) if rope_type != "default" else window
    return RopeSpec(
        inv_freq=inv_freq,
        attention_factor=attention_factor,
        rope_theta=float(theta),
        head_dim=int(head_dim),
        partial_rotary_factor=part,
        original_length=int(cast(int, recorded.get("original_length", trained))),
        target_length=window,
        method=str(recorded.get("method", rope_type)),
        params=dict(recorded.get("params", {})),
        native=copy.deepcopy(dict(parameters)),
        layer_type=layer_type,
        carried={key: copy.deepcopy(value) for key, value in parameters.items() if key not in SCALING_KEYS},
    )


def _even(dim: int) -> int:
    return dim + dim % 2


def _layer_view(config: PretrainedConfig, layer_type: str | None) -> PretrainedConfig:
    """The configuration as the layers of one type see it, where dimensions differ between layers."""
    if layer_type is not None and getattr(config, "is_heterogeneous", False):
        try:
            return cast(Mapping[str, PretrainedConfig], config.per_layer_config)[layer_type]
        except (KeyError, TypeError, ValueError) as error:
            raise LeverNotApplicable(
                f"dimensions of '{config.model_type}' differ between layers of type '{layer_type}'"
            ) from error
    return config
