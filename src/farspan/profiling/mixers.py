"""Token mixers side by side: operations and state as they are counted, seconds and memory as they are measured.

Mixers are made anew with random weights; what they are worth to a task is no question of cost and is not asked here.

Source: arXiv 2302.06218, abstract (cost against context, mixer by mixer).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from farspan.models.mixers import MIXERS, TokenMixer, build_mixer
from farspan.profiling.memory import peak_bytes
from farspan.profiling.timing import clocked


class MixerCost(BaseModel):
    """One mixer at one length, one sequence.

    flops, state_bytes : counted; the state is what a mixer with a causal form keeps to go on after `length` tokens
    seconds : median of the whole sequence's mixing, causal where the mixer can
    step_seconds : median of one more token after it; None for mixers without causal form
    peak_bytes : most memory that mixing holds at once, its input not counted
    """

    model_config = ConfigDict(frozen=True)

    mixer: str
    length: int
    causal: bool
    flops: float
    state_bytes: int | None
    seconds: float
    step_seconds: float | None
    peak_bytes: int | None
    rounds: int


def counted(kind: str, hidden: int, heads: int, lengths: Sequence[int]) -> dict[str, object]:
    """Traits, operations and bytes of state of a mixer, by length: counted, not measured."""
    mixer = build_mixer(kind, hidden, heads, max_length=max(lengths))
    return {
        "traits": mixer.traits._asdict(),
        "flops": {str(length): mixer.flops(length) for length in lengths},
        "state_bytes": {str(length): mixer.state_bytes(length) for length in lengths if mixer.traits.causal},
    }


@torch.no_grad()
def profile_mixers(
    kinds: Sequence[str] = tuple(MIXERS),
    lengths: Sequence[int] = (512, 1024, 2048),
    *,
    hidden: int = 256,
    heads: int = 4,
    rounds: int = 3,
    memory: bool = True,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[MixerCost]:
    """Measure mixers on the same random tokens, all of them in turn in every round.

    Parameters
    ----------
    kinds : names of mixers
    lengths : tokens of the sequence
    hidden, heads : channels of a token, and parts they are divided into
    progress : called with lengths done and lengths in all

    Raises
    ------
    MixerError : no such mixer, or channels that do not divide into heads.
    """
    place, costs = torch.device(device), []
    for done, length in enumerate(ordered := sorted(set(lengths))):
        torch.manual_seed(seed)
        mixers = {kind: build_mixer(kind, hidden, heads, max_length=length + 1).to(place).eval() for kind in kinds}
        tokens = torch.randn(1, length, hidden, generator=torch.Generator().manual_seed(seed)).to(place)
        peaks = {
            kind: peak_bytes(partial(_mix, mixer, tokens), place) if memory else None for kind, mixer in mixers.items()
        }
        whole: dict[str, list[float]] = {kind: [] for kind in kinds}
        step: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(rounds + 1):
            for kind, mixer in mixers.items():
                seconds, (_, state) = clocked(partial(_mix, mixer, tokens), place)
                one = clocked(partial(mixer.step, tokens[:, 0], state), place)[0] if mixer.traits.causal else None
                if turn:  # the first one warms up
                    whole[kind].append(seconds)
                    step[kind] += [] if one is None else [one]
        for kind, mixer in mixers.items():
            costs.append(
                MixerCost(
                    mixer=kind,
                    length=length,
                    causal=mixer.traits.causal,
                    flops=mixer.flops(length),
                    state_bytes=mixer.state_bytes(length) if mixer.traits.causal else None,
                    seconds=statistics.median(whole[kind]),
                    step_seconds=statistics.median(step[kind]) if step[kind] else None,
                    peak_bytes=peaks[kind],
                    rounds=rounds,
                )
            )
        if progress is not None:
            progress(done + 1, len(ordered))
    return costs


def _mix(mixer: TokenMixer, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    mixed: tuple[Tensor, tuple[Tensor, ...] | None] = mixer(tokens, causal=mixer.traits.causal)
    return mixed
