"""Asking where the score falls: an effective length from few questions, for a model here or behind an address.

Which questions come next is decided by `farspan.evals.adaptive`; this module turns them into cells and their answers
into scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from farspan.evals.adaptive import AdaptiveLength
from farspan.evals.asking import Cell
from farspan.evals.core import Probe
from farspan.evals.evaluation import Answer, result_of

BLOCK = 8

Ask = Callable[[Cell], list[Answer]]


def searched(
    probes: Sequence[Probe],
    lengths: Sequence[int],
    threshold: float,
    ask: Ask,
    *,
    full: int,
    token_budget: int | None,
    seed: int,
) -> dict[str, list[Answer]]:
    """The answers of every probe, by length and question.

    Parameters
    ----------
    lengths : coarse grid of the search, at least two
    full : most questions a length
    token_budget : of the prompts of all probes, shared equally; None for no limit
    seed : of the bootstrap

    Raises
    ------
    EffectiveLengthError : fewer than two lengths.
    """
    share = None if token_budget is None else token_budget // len(probes)
    found: dict[str, list[Answer]] = {}
    for probe in probes:
        step = -(-BLOCK // probe.questions_per_context) * probe.questions_per_context
        most = max(full // probe.questions_per_context * probe.questions_per_context, step)
        search = AdaptiveLength(lengths, threshold, block=step, full=most, token_budget=share, seed=seed)
        answers: list[Answer] = []
        while (block := search.ask()) is not None:
            heard = ask(Cell(probe=probe, length=block.length, n=block.samples, first=block.first))
            answers += heard
            scored = result_of(probe, threshold, heard).records
            search.tell(scored)
            if not scored:
                # A length without a single reply decides nothing, and asking on would not end.
                break
        found[probe.name] = sorted(answers, key=lambda answer: (answer.length, int(answer.id.rsplit("/", 1)[-1])))
    return found
