"""Building one context: a haystack cut to length, with needles at their places.

Length is arithmetic on counted units; only the few joints around needles and ends are tokenised. Where a tokenizer
does not allow that, the finished text is tokenised and the number of units corrected. This module writes no text of
its own except one-token fillers for exact lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from farspan.evals.generate.count import Mode, TokenCounter
from farspan.evals.generate.counted import counted_source
from farspan.evals.generate.distractors import DistractorSpec
from farspan.evals.generate.fitting import Fitter, Placer, Plan
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.length import LengthTarget, LengthTargetError
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.generate.placement import Depths
from farspan.evals.generate.rng import derive_seed
from farspan.evals.schema import EvidenceSpan

__all__ = ["BuiltContext", "Frame", "Needle", "Placer", "build_context"]

PlacementMode = Literal["insert", "replace"]


@dataclass(frozen=True)
class BuiltContext:
    """A built context.

    text : the whole context, preamble and closing included
    units_kept : number of the haystack's units in it, replaced ones included
    spans : where the needles stand, in the order of the text
    depths : achieved depth of each span in percent of the haystack's tokens
    n_context_tokens : tokens of `text`
    n_total_tokens : with template, longest tail and reserve
    mode : how the haystack's units add up under this tokenizer
    counted : whether the numbers were added up or the finished text was tokenised
    overhead_tokens : all of the total that is neither haystack nor needles
    filler_tokens : what fillers make up, for exact lengths, in the target's unit
    """

    text: str
    units_kept: int
    spans: tuple[EvidenceSpan, ...]
    depths: tuple[float, ...]
    n_context_tokens: int
    n_total_tokens: int
    mode: Mode
    counted: Literal["predicted", "verified"]
    overhead_tokens: int
    filler_tokens: int = 0


def build_context(
    haystack: Haystack,
    needles: Sequence[Needle] | Placer,
    target: LengthTarget,
    counter: TokenCounter,
    *,
    depths: Depths = "uniform",
    seed: int,
    placement_seed: int | None = None,
    distractors: DistractorSpec | None = None,
    frame: Frame = Frame(),
    mode: PlacementMode = "insert",
    in_order: bool = False,
    min_units: int = 1,
    verify: bool = False,
    lang: str = "en",
) -> BuiltContext:
    """Fill a context to its length and hide needles in it.

    Parameters
    ----------
    haystack : where units come from
    needles : what to hide; or a function of (number of units, random stream) that returns needles with their unit
        boundaries, for needles that depend on the haystack's size
    target : the length
    counter : the tokenizer lengths are measured with
    depths : one depth for all needles, one each (percent), "uniform", "random" or "clustered"
    seed : of the haystack; equal seeds give the same units at every length
    placement_seed : of random depths; None derives it from `seed` and the target
    distractors : generated from the needles and hidden at random places
    frame : what stands around the haystack
    mode : "insert" puts needles between units, "replace" puts each in the place of one unit
    in_order : needles keep their order in the text
    min_units : fewest haystack units that make sense
    verify : tokenise the finished text even where sums are exact
    lang : language of generated distractor keys

    Raises
    ------
    LengthTargetError : the target cannot be met; names overhead, needle tokens and the smallest feasible length.
    """
    if placement_seed is None:
        placement_seed = derive_seed(seed, "placement", target.value, target.unit)
    source = counted_source(haystack, counter)
    fitter = Fitter(
        window=source.window(seed),
        needles=needles,
        target=target,
        counter=counter,
        depths=depths,
        placement_seed=placement_seed,
        frame=frame,
        replacing=mode == "replace",
        in_order=in_order,
        min_units=min_units,
    )
    fitter.add_distractors(distractors, derive_seed(seed, "distractors"), lang)
    plan = fitter.search(0)
    verifying = verify or source.mode == "verify"
    if verifying:
        plan = fitter.verified(plan) if target.unit == "tokens" else fitter.tokenised(plan)
    if target.exact and target.unit != "units":
        plan = fitter.exact(plan, verifying)
    tolerated = target.tolerance
    if tolerated is not None and target.unit != "units" and target.value - plan.size > tolerated:
        raise LengthTargetError(
            f"the context falls {target.value - plan.size} {target.unit} short of {target.value}, more than the "
            f"tolerance of {tolerated}; allow more or ask for exact=True"
        )
    return _finish(fitter, plan, source.mode, "verified" if verifying else "predicted")


def _finish(fitter: Fitter, plan: Plan, mode: Mode, counted: Literal["predicted", "verified"]) -> BuiltContext:
    """Write the text and find the spans."""
    layout, sizes = plan.layout, plan.sizes
    spans, depths = layout.spans()
    around = fitter.around(sizes)
    edges = fitter.counter.count_many([layout.first, layout.window.source.haystack.tail + fitter.frame.closing])
    return BuiltContext(
        text=layout.text(),
        units_kept=layout.n,
        spans=spans,
        depths=depths,
        n_context_tokens=sizes.context_tokens,
        n_total_tokens=sizes.context_tokens + around,
        mode=mode,
        counted=counted,
        overhead_tokens=around + sum(edges),
        filler_tokens=plan.filler_tokens,
    )
