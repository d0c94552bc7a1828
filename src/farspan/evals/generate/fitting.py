"""Fitting one context to its target: how many units, which places, what filler.

Works on counted layouts; tokenises finished texts only where sums cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.counted import Window
from farspan.evals.generate.distractors import DistractorSpec, make_distractors
from farspan.evals.generate.haystack.base import HaystackError
from farspan.evals.generate.layout import Layout, Sizes, make_edits
from farspan.evals.generate.length import IntArray, LengthTarget, LengthTargetError, fit_prefix
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.generate.placement import Depths, PlacementError, place_insertions, place_replacements

FILLERS = (" so", " on", " and", " the", " a", " to", " in", ".", ",", "-", " x", "x", "。", "\n")
"""Texts tried as one-token fillers, in this order."""

_SEARCH_ROUNDS = 12
_VERIFY_ROUNDS = 3
_DROPPED = 3

Placer = Callable[[int, Random], Sequence[tuple[int, Needle]]]
"""Chooses needles and their boundaries (or, replacing, their unit indices) once the number of units is known."""


@dataclass(frozen=True)
class Plan:
    """A layout with its size in the target's unit, and the token counts known of it."""

    layout: Layout
    sizes: Sizes
    size: int
    filler_tokens: int = 0


class Fitter:
    """Finds the layout of one context; see `build_context` for the settings."""

    def __init__(
        self,
        *,
        window: Window,
        needles: Sequence[Needle] | Placer,
        target: LengthTarget,
        counter: TokenCounter,
        depths: Depths,
        placement_seed: int,
        frame: Frame,
        replacing: bool,
        in_order: bool,
        min_units: int,
    ) -> None:
        self.window = window
        self.placer = needles if callable(needles) else None
        self.needles: list[Needle] = [] if callable(needles) else list(needles)
        self.distractors: list[Needle] = []
        self.target = target
        self.counter = counter
        self.depths = depths
        self.placement_seed = placement_seed
        self.frame = frame
        self.replacing = replacing
        self.in_order = in_order
        self.min_units = max(min_units, 1)
        window.grow(self.min_units + 1)
        if len(window) < self.min_units:
            raise HaystackError(f"the haystack has {len(window)} units, at least {self.min_units} are needed")

    # -- placing -------------------------------------------------------------------------------------------------

    def add_distractors(self, spec: DistractorSpec | None, seed: int, lang: str) -> None:
        """Make the distractors; their number comes from the size of the haystack without them."""
        if spec is None:
            return
        if self.placer is not None:
            raise PlacementError("distractors are made from given needles; a placing function returns its own")
        self.distractors = make_distractors(spec, self.needles, self._first_guess(), Random(seed), lang=lang)

    def _least(self) -> int:
        if not self.replacing:
            return self.min_units
        return max(self.min_units, len(self.needles) + len(self.distractors))

    def _place(self, n: int) -> list[tuple[int, Needle]]:
        rng = Random(self.placement_seed)
        if self.placer is not None:
            return list(self.placer(n, rng))
        count, others = len(self.needles), len(self.distractors)
        if self.replacing:
            places = place_replacements(n, self.depths, count, rng, self.in_order)
            free = [place for place in range(n) if place not in set(places)] if others else []
            if others > len(free):
                raise LengthTargetError(f"{others} distractors do not fit beside {count} needles into {n} units")
            spots = [free[i] for i in place_replacements(len(free), "random", others, rng, False)]
        else:
            sums = self.window.tokens[: n + 1]
            places = place_insertions(sums, self.depths, count, rng, self.in_order)
            spots = [rng.randrange(n + 1) for _ in range(others)]
        return [*zip(places, self.needles, strict=True), *zip(spots, self.distractors, strict=True)]

    def plan(self, n: int) -> Plan:
        """Needles placed among `n` units, and the size that gives."""
        edits = make_edits(self._place(n), self.replacing)
        return self._measured(Layout(self.window, n, edits, self.frame, self.counter))

    def _measured(self, layout: Layout, filler_tokens: int = 0) -> Plan:
        sizes = layout.sizes()
        return Plan(layout, sizes, self._size(layout.n, sizes), filler_tokens)

    def _size(self, n: int, sizes: Sizes) -> int:
        total = self.target.semantics == "total"
        if self.target.unit == "units":
            return n
        if self.target.unit == "chars":
            return sizes.context_chars + (sizes.tail_chars if total else 0)
        return sizes.context_tokens + (self.around(sizes) if total else 0)

    def around(self, sizes: Sizes) -> int:
        return sizes.tail_tokens + self.frame.template_tokens + self.target.reserve

    # -- fitting -------------------------------------------------------------------------------------------------

    def _first_guess(self) -> int:
        """Units that fit if nothing merged at the joints."""
        if self.target.unit == "units":
            return self.target.value
        tokens = self.target.unit == "tokens"
        layout = Layout(self.window, 0, (), self.frame, self.counter)
        size = self._size(0, layout.sizes())
        texts = [layout.joiner + needle.text for needle in [*self.needles, *self.distractors]]
        if not self.replacing:
            size += sum(self.counter.count_many(texts)) if tokens else sum(len(text) for text in texts)
        budget = self.target.value - size
        self._reach(budget)
        return max(fit_prefix(self._sums(), budget)[0], self.min_units)

    def _sums(self) -> IntArray:
        return self.window.tokens if self.target.unit == "tokens" else self.window.chars

    def _reach(self, budget: int) -> None:
        if self.target.unit == "tokens":
            self.window.reach(tokens=budget)
        else:
            self.window.reach(chars=budget)

    def search(self, shift: int) -> Plan:
        """The layout with most units whose size plus `shift` stays within the target."""
        limit = self.target.value - shift
        if self.target.unit == "units":
            self.window.grow(limit)
            if len(self.window) < limit:
                raise LengthTargetError(f"the haystack has {len(self.window)} units, {limit} were asked for")
            return self.plan(limit)
        best: Plan | None = None
        tried: set[int] = set()
        n = max(self._first_guess(), self._least())
        for _ in range(_SEARCH_ROUNDS):
            self.window.grow(n)
            n = min(n, len(self.window))
            plan = self.plan(n)
            tried.add(n)
            if plan.size <= limit and (best is None or n > best.layout.n):
                best = plan
            budget = int(self._sums()[n]) + limit - plan.size
            self._reach(budget)
            n = max(fit_prefix(self._sums(), budget)[0], self._least())
            if n in tried:
                break
        return best if best is not None else self._step_down(min(tried), limit)

    def _step_down(self, n: int, limit: int) -> Plan:
        """Drop units one by one, then in growing steps, until the layout fits."""
        step = 1
        while n > self._least():
            n = max(n - step, self._least())
            step += step // 2 + 1
            plan = self.plan(n)
            if plan.size <= limit:
                return plan
        raise self._refusal(limit)

    def _refusal(self, limit: int) -> LengthTargetError:
        least = self.plan(self._least())
        unit = self.target.unit
        around = self.around(least.sizes) if unit == "tokens" else least.sizes.tail_chars
        texts = [needle.text for needle in least.layout.needles()]
        hidden = sum(self.counter.count_many(texts)) if unit == "tokens" else sum(len(text) for text in texts)
        edge = [least.layout.first + least.layout.last]
        fixed = self.counter.count_many(edge)[0] if unit == "tokens" else len(edge[0])
        overhead = fixed + (around if self.target.semantics == "total" else 0)
        smallest = least.size + self.target.value - limit
        return LengthTargetError(
            f"{self.target.value} {unit} are too few: the prompt around the haystack takes {overhead}, needles "
            f"{hidden}; the smallest feasible length is {smallest}"
        )

    # -- verifying and filling -----------------------------------------------------------------------------------

    def tokenised(self, plan: Plan) -> Plan:
        """The same plan with the counts of its finished text."""
        text = plan.layout.text()
        context = self.counter.verify(text)
        tails = dict.fromkeys(self.frame.tails)
        tail = max((self.counter.verify(text + tail) - context for tail in self._longest(tails)), default=0)
        sizes = Sizes(context, tail, plan.sizes.context_chars, plan.sizes.tail_chars)
        return Plan(plan.layout, sizes, self._size(plan.layout.n, sizes), plan.filler_tokens)

    def _longest(self, tails: Iterable[str]) -> list[str]:
        """The tail with most tokens, if any has text."""
        texts = [tail for tail in tails if tail]
        return [max(zip(self.counter.count_many(texts), texts, strict=True))[1]] if texts else []

    def verified(self, plan: Plan) -> Plan:
        """Tokenise finished texts and correct the number of units until one fits, at most three times for closeness."""
        best: Plan | None = None
        limit, shift = self.target.value, 0
        for _ in range(_VERIFY_ROUNDS):
            actual = self.tokenised(plan)
            error = actual.size - plan.size
            if actual.size <= limit and (best is None or actual.size > best.size):
                best = actual
            if error == shift:
                break
            shift = error
            plan = self.search(shift)
        margin = max(8, limit // 512)
        while best is None:
            shift += margin
            margin *= 2
            actual = self.tokenised(self.search(shift))
            best = actual if actual.size <= limit else None
        return best

    def exact(self, plan: Plan, verifying: bool) -> Plan:
        """Fill the remaining room with copies of a one-token filler (characters: full stops).

        A filler may break a merge at its joint and cost more than its own tokens; then it needs more room than there
        is, and a unit makes way.
        """
        for dropped in range(_DROPPED + 1):
            if dropped:
                if plan.layout.n - dropped < self._least():
                    break
                shorter = self.plan(plan.layout.n - dropped)
                shorter = self.tokenised(shorter) if verifying else shorter
            else:
                shorter = plan
            missing = self.target.value - shorter.size
            if missing == 0:
                return shorter
            drift = shorter.size - self._measured(shorter.layout).size
            for filler in self._fillers(missing) if missing > 0 else ():
                filled = self._measured(shorter.layout.filled(filler), missing)
                if filled.size + drift != self.target.value:
                    continue
                if verifying:
                    filled = self.tokenised(filled)
                if filled.size == self.target.value:
                    return filled
        raise LengthTargetError(
            f"no one-token filler of this tokenizer makes up the missing {self.target.value - plan.size} "
            f"{self.target.unit}; use exact=False or another length"
        )

    def _fillers(self, missing: int) -> Iterator[str]:
        if self.target.unit == "chars":
            yield "." * missing
            return
        for more in (0, -1, 1, -2, 2, -3, -4):
            if missing + more > 0:
                yield from (filler * (missing + more) for filler in FILLERS)
