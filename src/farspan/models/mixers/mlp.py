"""A small network along the tokens, the same for every channel: learned, and blind to what the tokens are.

Source: arXiv 2105.01601 (MLP-Mixer); its causal form, with units that stand at positions, is ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farspan.models.mixers.base import MixerError, State, TokenMixer, Traits


class MLPMixer(TokenMixer):
    """y^T = gelu(x^T W1) W2, with W1 [length, hidden] and W2 [hidden, length].

    In the causal form hidden units stand at evenly spread positions, see what comes up to there, and are seen from
    there on. Shorter sequences use the first rows and columns.

    Parameters
    ----------
    hidden : units
    """

    kind: ClassVar[str] = "mlp_mixer"
    traits: ClassVar[Traits] = Traits(False, False, True, True, "min(L, hidden)", "L hidden D")

    def __init__(self, d_model: int, heads: int = 1, *, hidden: int | None = None, max_length: int = 1024) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.hidden = hidden or max_length
        self.w1 = nn.Parameter(torch.empty(max_length, self.hidden))
        self.w2 = nn.Parameter(torch.empty(self.hidden, max_length))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.w1, 0.0, self.max_length**-0.5)
        nn.init.normal_(self.w2, 0.0, self.hidden**-0.5)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        padding_mask: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State | None]:
        self._require_causal_form(causal, state)
        if padding_mask is not None and not bool(padding_mask.all()):
            raise MixerError("'mlp_mixer' weighs tokens by their index, which padding would shift; take rows apart")
        seen = x if state is None else torch.cat([state[0], x], 1)
        length = seen.shape[1]
        self._require_length(length)
        w1, w2 = self.w1[:length], self.w2[:, :length]
        if causal:
            place = torch.arange(self.hidden, device=x.device) * self.max_length // self.hidden
            index = torch.arange(length, device=x.device)
            w1 = w1 * (index[:, None] <= place)
            w2 = w2 * (place[:, None] <= index)
        y = (F.gelu(seen.transpose(1, 2) @ w1) @ w2[:, length - x.shape[1] :]).transpose(1, 2)
        return y, (seen,) if causal else None

    def flops(self, length: int) -> float:
        return 4.0 * length * self.hidden * self.d_model

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return length * self.d_model * bytes_per_element
