"""What a tune run found, and small questions to it: which trial won, what its recipe is, how to say a length."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.evals.evaluation import TaskResult
from farspan.profiling import Profile
from farspan.tuning import judge
from farspan.tuning.folder import Measured, Trial


@dataclass(frozen=True)
class Ablated:
    """The winner without one lever: what it then reads and costs."""

    lever: str
    result: TaskResult | None
    profile: Profile | None


@dataclass(frozen=True)
class Outcome:
    """Everything a run found."""

    lengths: list[int]
    baseline: Measured
    trials: list[Trial]
    winner: Trial | None
    best: Measured | None
    ablated: list[Ablated]
    refused: dict[str, str]
    notes: list[str]


def length_grid(native_length: int, target_length: int) -> list[int]:
    """Half the native window, the window, and doublings of it up to the target."""
    lengths = [max(1, native_length // 2), native_length]
    while lengths[-1] * 2 < target_length:
        lengths.append(lengths[-1] * 2)
    return [*lengths, target_length]


def best_trial(trials: list[Trial]) -> Trial | None:
    """The longest effective length among trials whose gain clears its interval.

    Equal lengths go to the better mean score, then to the shorter time to first token.
    """
    return max((trial for trial in trials if trial.record.kept and trial.result is not None), key=_rank, default=None)


def simplest_trial(best: Trial, trials: list[Trial]) -> Trial:
    """The trial of fewest levers among those kept that the best does not clearly beat; the best itself if it does."""
    assert best.result is not None
    simpler = [trial for trial in trials if trial.record.kept and len(trial.record.levers) < len(best.record.levers)]
    for trial in sorted(simpler, key=lambda trial: (-len(trial.record.levers), _rank(trial)), reverse=True):
        if trial.result is not None and not judge.pays(trial.result, best.result):
            return trial
    return best


def _rank(trial: Trial) -> tuple[float, float, float]:
    assert trial.result is not None
    score = sum(answer.score for answer in trial.result.answers) / len(trial.result.answers)
    return (trial.record.effective_length or 0.0, score, -(trial.record.ttft_s or 0.0))


def in_words(value: float, censoring: str, lengths: list[int]) -> str:
    """An effective length for people: "713 tokens", "fewer than 256 tokens", "at least 2,048 tokens"."""
    if censoring == "left":
        return f"fewer than {lengths[0]:,} tokens"
    if censoring == "right":
        return f"at least {lengths[-1]:,} tokens"
    return f"{value:,.0f} tokens"
