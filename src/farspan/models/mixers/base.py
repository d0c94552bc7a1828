"""The template of token mixing: every sequence model mixes tokens by an operator along the length, P(X) = M(X) V(X).

A mixer is one member of that family: it says where its matrix M comes from, computes M V without writing M out where
it can, goes on from a state, and can show M on small inputs. Mixing of channels, norms and residuals are not its
business; `MixerForCausalLM` puts them around it, alike for all.

Source: arXiv 2302.06218, section "nomenclature" (token mixing and channel mixing); the table of members is completed
here.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from farspan.errors import FarspanError

State = tuple[Tensor, ...]


class MixerError(FarspanError):
    """A use that a mixer does not allow, such as a causal form it does not have."""


class Traits(NamedTuple):
    """What sets a mixer apart from the others.

    Attributes
    ----------
    input_dependent : M follows from the input
    normalised : rows of M are non-negative and sum to 1
    position_aware : permuting the tokens changes more than the order of the outputs
    causal : there is a form where no output depends on later tokens
    rank : of M, in words
    cost : of mixing L tokens, in words
    """

    input_dependent: bool
    normalised: bool
    position_aware: bool
    causal: bool
    rank: str
    cost: str


class TokenMixer(nn.Module):
    """Base of all members.

    Parameters
    ----------
    d_model : channels of a token, D
    heads : parts of the channels that mix by matrices of their own
    max_length : longest sequence of mixers whose parameters have a length
    """

    kind: ClassVar[str]
    traits: ClassVar[Traits]

    def __init__(self, d_model: int, heads: int = 1, *, max_length: int = 1024) -> None:
        super().__init__()
        if d_model < 1 or heads < 1 or d_model % heads:
            raise MixerError(f"d_model must divide into heads, given {d_model} and {heads}")
        self.d_model = d_model
        self.heads = heads
        self.max_length = max_length

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.d_model // self.heads

    def reset_parameters(self) -> None:
        """Give parameters of its own their initial values; linear maps have theirs already."""

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        padding_mask: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State | None]:
        """Mix tokens.

        Parameters
        ----------
        x : Tensor [batch, length, d_model]
        causal : no output depends on later tokens
        positions : integer Tensor [batch or 1, length]; by default they go on from the state
        padding_mask : Tensor [batch, length], nonzero for tokens; padding stands at the left
        state : what an earlier call returned; only with `causal`

        Returns
        -------
        (y, state) : [batch, length, d_model], and the state to go on with if `causal`, else None

        Raises
        ------
        MixerError : a causal call of a mixer without causal form, or a longer sequence than it has parameters for.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")

    def step(self, x_t: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One more token: [batch, d_model] and a state in, the same out."""
        y, after = self(x_t[:, None], causal=True, state=state)
        assert after is not None
        return y[:, 0], after

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """M written out, [batch, heads, length, length], for looking at; small lengths only.

        Raises
        ------
        MixerError : the mixer is no linear map of its values.
        """
        raise MixerError(f"'{self.kind}' has no mixing matrix to show")

    def flops(self, length: int) -> float:
        """Floating-point operations of one sequence, forward, maps into queries, keys and values included."""
        raise NotImplementedError(f"{type(self).__name__} does not implement flops")

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        """Bytes of one sequence's state after `length` tokens."""
        raise NotImplementedError(f"{type(self).__name__} does not implement state_bytes")

    def _require_causal_form(self, causal: bool, state: State | None) -> None:
        if causal and not self.traits.causal:
            raise MixerError(
                f"'{self.kind}' mixes every token with all others and has no causal form; "
                "use it with causal=False, in an encoder"
            )
        if state is not None and not causal:
            raise MixerError("a state goes on in time, so it needs causal=True")

    def _require_length(self, length: int) -> None:
        if length > self.max_length:
            raise MixerError(f"'{self.kind}' has parameters for {self.max_length} tokens, given {length}")


class ProjectedMixer(TokenMixer):
    """A mixer with maps of its input to queries, keys and values."""

    def __init__(self, d_model: int, heads: int = 1, *, kv_heads: int | None = None, max_length: int = 1024) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.kv_heads = kv_heads or heads
        if heads % self.kv_heads:
            raise MixerError(f"heads must divide into kv_heads, given {heads} and {self.kv_heads}")
        narrow = self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, narrow, bias=False)
        self.v_proj = nn.Linear(d_model, narrow, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [batch, heads, length, head_dim]; k and v alike with kv_heads."""
        shape = (*x.shape[:2], -1, self.head_dim)
        query, key, value = (maps(x).view(shape).transpose(1, 2) for maps in (self.q_proj, self.k_proj, self.v_proj))
        return query, key, value

    def projection_flops(self, length: int) -> float:
        """Of the three maps."""
        return 2.0 * length * self.d_model * (self.d_model + 2 * self.kv_heads * self.head_dim)


def left_padded(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """The input with zeros for padding."""
    return x if padding_mask is None else x * padding_mask[..., None].to(x.dtype)
