"""The differential equation of CLEX: a small net on top of an analytic path of log-frequencies, and its integration.

The net corrects the path. What is integrated is the correction alone, so an untrained net gives the path exactly. It
runs on the CPU in double precision, outside autocast: vectors are tiny, and an error of a frequency grows with the
position it is multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.positions.rope import default_inv_freq

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
}


class ClexDynamics(nn.Module):
    """`dz/dt = act((z + nu(t)) up) down + nu'(t)` for log-frequencies z, with z(1) those of the model.

    The path nu is, with alpha = 2t - 1, `z(1) - j / (d - 2) log alpha`, the growing base of NTK interpolation at
    factor 2; or, with `kept`, `z(1) + log((1 - kept) / t + kept)`.

    Parameters
    ----------
    head_dim : rotary channels d of a head, at least 4
    rope_theta : base of the frequencies at t = 1
    param_factor : hidden units over d
    act : `tanh` or `silu`; `none` has no net and no parameters
    time_embedding_theta : base of the nu that the net sees, where it is to differ from `rope_theta`
    inv_freq : frequencies at t = 1 instead of those of `rope_theta`: Tensor [d / 2], all above 0
    kept : share of each pair's frequency that does not shrink with t: Tensor [d / 2]
    seed : of the net's first matrix; the second begins with zeros

    Raises
    ------
    LeverNotApplicable : `head_dim` below 4, or an unknown activation.

    Source: arXiv 2310.16450, sections 3.1 and 3.2.
    """

    ode_up_proj: nn.Parameter | None
    ode_down_proj: nn.Parameter | None

    def __init__(
        self,
        head_dim: int,
        rope_theta: float,
        param_factor: float = 1.0,
        act: str = "tanh",
        time_embedding_theta: float | None = None,
        *,
        inv_freq: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if head_dim < 4:
            raise LeverNotApplicable(f"clex needs at least 4 rotary channels, not {head_dim}")
        if act not in (*ACTIVATIONS, "none"):
            raise LeverNotApplicable(f"activation '{act}' is not known; choose one of: {', '.join(ACTIVATIONS)}, none")
        start = default_inv_freq(rope_theta, head_dim) if inv_freq is None else inv_freq.double().cpu()
        self.act = act
        self.start = start.log()
        seen = None if time_embedding_theta is None else default_inv_freq(time_embedding_theta, head_dim)
        self.seen = self.start if seen is None else seen.log()
        self.kept = None if kept is None else kept.double().cpu().clamp(0, 1)
        self.slope = torch.arange(0, head_dim, 2, dtype=torch.float64) / (head_dim - 2)
        if act == "none":
            self.ode_up_proj = self.ode_down_proj = None
            return
        pairs, hidden = head_dim // 2, max(1, int(param_factor * head_dim))
        self.ode_up_proj = nn.Parameter(torch.empty(pairs, hidden))
        self.ode_down_proj = nn.Parameter(torch.zeros(hidden, pairs))
        generator = torch.Generator().manual_seed(seed)
        nn.init.kaiming_uniform_(self.ode_up_proj, a=math.sqrt(5), generator=generator)

    def shift(self, t: float) -> torch.Tensor:
        """What the path adds to the log-frequencies at scale `t`: float64 [d / 2], 0 up to t = 1."""
        if self.kept is not None:
            return torch.log((1 - self.kept) / max(t, 1.0) + self.kept)
        return -self.slope * math.log(max(2 * t - 1, 1.0))

    def correction(self, z: torch.Tensor, t: float) -> torch.Tensor:
        """The net's part of the derivative: float64 [d / 2]."""
        if self.ode_up_proj is None or self.ode_down_proj is None:
            return torch.zeros_like(z)
        hidden = (z + self.seen + self.shift(t)) @ self.ode_up_proj.double()
        return ACTIVATIONS[self.act](hidden) @ self.ode_down_proj.double()

    def derivative(self, z: torch.Tensor, t: float) -> torch.Tensor:
        """dz/dt at scale `t` >= 1: float64 [d / 2]."""
        if self.kept is None:
            of_path = -self.slope * 2 / (2 * t - 1)
        else:
            of_path = -(1 - self.kept) / t**2 / ((1 - self.kept) / t + self.kept)
        return self.correction(z.double(), t) + of_path

    def frequencies(self, ts: Sequence[float], time_dt: float = 0.25) -> torch.Tensor:
        """Frequencies at the scales `ts`, by Runge-Kutta steps of fourth order.

        Parameters
        ----------
        ts : ascending, the first at least 1
        time_dt : longest step

        Returns
        -------
        Tensor [len(ts), d / 2], float64, radians a token, with gradients to the net

        Raises
        ------
        LeverNotApplicable : scales that do not ascend from 1 or above.
        """
        if not ts or ts[0] < 1 or any(later < earlier for earlier, later in pairwise(ts)):
            raise LeverNotApplicable(f"scales must ascend and be at least 1, not {list(ts)}")
        rows = []
        now, bent = 1.0, 0 * self.correction(self.start, 1.0)
        for t in ts:
            if self.act != "none":
                bent = self._advance(bent, now, t, time_dt)
            now = t
            rows.append((self.start + self.shift(t) + bent).exp())
        return torch.stack(rows)

    def _advance(self, bent: torch.Tensor, start: float, end: float, time_dt: float) -> torch.Tensor:
        """The distance from the path, integrated from `start` to `end`."""
        steps = math.ceil((end - start) / time_dt - 1e-9)
        for step in range(steps):
            h = (end - start) / steps
            t = start + step * h
            first = self._bend(bent, t)
            second = self._bend(bent + h / 2 * first, t + h / 2)
            third = self._bend(bent + h / 2 * second, t + h / 2)
            fourth = self._bend(bent + h * third, t + h)
            bent = bent + h / 6 * (first + 2 * second + 2 * third + fourth)
        return bent

    def _bend(self, bent: torch.Tensor, t: float) -> torch.Tensor:
        return self.correction(self.start + self.shift(t) + bent, t)


def save_dynamics(dynamics: ClexDynamics, path: str | Path, told: dict[str, str]) -> Path:
    """Write a learned flow as safetensors, with the settings it holds for.

    Raises
    ------
    FarspanError : the file cannot be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in dynamics.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(path), metadata=told)
    except OSError as error:
        raise FarspanError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def load_dynamics(dynamics: ClexDynamics, path: str | Path | None, told: dict[str, str]) -> None:
    """Read a learned flow into `dynamics`.

    Settings that a file does not tell (those of the official code tell none) are taken to agree.

    Raises
    ------
    FarspanError : there is no file, or it cannot be read.
    LeverNotApplicable : the flow belongs to another model, or to other settings.
    """
    if path is None:
        raise FarspanError(
            "lever 'clex' has no learned flow yet; train one with farspan.training.fit_clex and give weights=FILE, "
            "or set act=none for the path without a net"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            kept = file.metadata() or {}
            found = {name.rpartition(".")[2]: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FarspanError(f"cannot read the learned flow {path}: {error}") from error
    for name, value in told.items():
        if kept.get(name, value) != value:
            raise LeverNotApplicable(f"the flow {path} was learned with {name}={kept[name]}, not {value}")
    for name, parameter in dynamics.named_parameters():
        if name not in found or found[name].shape != parameter.shape:
            shape = list(found[name].shape) if name in found else "nothing"
            raise LeverNotApplicable(
                f"the flow {path} holds {shape} for {name} where {list(parameter.shape)} is needed; it belongs to "
                "another model or another param_factor"
            )
        with torch.no_grad():
            parameter.copy_(found[name])
