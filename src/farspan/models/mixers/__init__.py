"""Token mixers: the members of one template, by name, each in one small module."""

from farspan.models.mixers.base import MixerError, State, TokenMixer, Traits
from farspan.models.mixers.global_mixers import Fourier, LowRankAttention
from farspan.models.mixers.linear import Lightning, LinearAttention
from farspan.models.mixers.mlp import MLPMixer
from farspan.models.mixers.softmax import SoftmaxAttention, SparseAttention
from farspan.models.mixers.toeplitz import AveragePool, DiagonalSSM, LongConvolution

MIXERS: dict[str, type[TokenMixer]] = {
    mixer.kind: mixer
    for mixer in (
        SoftmaxAttention,
        LinearAttention,
        Lightning,
        LowRankAttention,
        SparseAttention,
        Fourier,
        MLPMixer,
        AveragePool,
        LongConvolution,
        DiagonalSSM,
    )
}


def mixer_class(kind: str) -> type[TokenMixer]:
    """The mixer of this kind; `MixerError` lists all kinds."""
    if kind not in MIXERS:
        raise MixerError(f"unknown mixer '{kind}'; known: {', '.join(MIXERS)}")
    return MIXERS[kind]


def build_mixer(kind: str, d_model: int, heads: int = 1, **settings: object) -> TokenMixer:
    """A mixer by its kind.

    Parameters
    ----------
    settings : the kind's own, such as `window`, `rank` or `max_length`

    Raises
    ------
    MixerError : no such kind, or settings it does not have.
    """
    try:
        return mixer_class(kind)(d_model, heads, **settings)  # type: ignore[arg-type]
    except TypeError as error:
        raise MixerError(f"mixer '{kind}': {error}") from error


__all__ = ["MIXERS", "MixerError", "State", "TokenMixer", "Traits", "build_mixer", "mixer_class"]
