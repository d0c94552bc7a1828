"""A haystack cut at some number of units, with needles at their places: its size, its text, its spans.

Sizes come from sums over counted units; only the joints around needles and ends are tokenised, each with a whole unit
on either side. Nothing here decides how many units there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.counted import Window
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.schema import EvidenceSpan

MOST_JOINTS = 4096


@dataclass(frozen=True)
class Edit:
    """Units `start` to `stop` give way to needles; `start == stop` inserts. `glue` goes right behind what precedes."""

    start: int
    stop: int
    needles: tuple[Needle, ...] = ()
    glue: str = ""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a layout.

    context_tokens, context_chars : of the context
    tail_tokens, tail_chars : of the longest tail behind it
    """

    context_tokens: int
    tail_tokens: int
    context_chars: int
    tail_chars: int


@dataclass(frozen=True)
class Layout:
    """Units 0 to `n` of a window, with edits in ascending order that do not overlap."""

    window: Window
    n: int
    edits: tuple[Edit, ...]
    frame: Frame
    counter: TokenCounter
    end_glue: str = ""

    @property
    def joiner(self) -> str:
        """What stands between units."""
        return self.window.source.haystack.joiner

    @property
    def first(self) -> str:
        """Text before the first unit."""
        return self.frame.preamble + self.window.source.haystack.head

    @property
    def last(self) -> str:
        """Text behind the last unit."""
        return self.end_glue + self.window.source.haystack.tail + self.frame.closing

    def needles(self) -> list[Needle]:
        """All needles in the order of the text."""
        return [needle for edit in self.edits for needle in edit.needles]

    # -- sizes ---------------------------------------------------------------------------------------------------

    def sizes(self) -> Sizes:
        """Count tokens and characters."""
        tails = list(dict.fromkeys(self.frame.tails)) or [""]
        plan = self._joints()
        ends = [plan.end + tail for tail in tails]
        strings = [plan.begin, plan.anchor, plan.end, *ends]
        for new, old in plan.inner:
            strings += [new, old]
        begin, anchor, end, *rest = self._counts(strings)
        with_tails, pairs = rest[: len(ends)], rest[len(ends) :]
        tokens = self.window.tokens
        context = begin + end - anchor + int(tokens[plan.stop] - tokens[plan.start])
        context += sum(pairs[0::2]) - sum(pairs[1::2])
        return Sizes(context, max(with_tails) - end, self._characters(), max(len(tail) for tail in tails))

    def _counts(self, strings: list[str]) -> list[int]:
        """Tokens of each; what was counted for this stream before is not counted again."""
        known = self.window.joints
        if len(known) > MOST_JOINTS:
            known.clear()
        new = [string for string in dict.fromkeys(strings) if string not in known]
        known.update(zip(new, self.counter.count_many(new), strict=True))
        return [known[string] for string in strings]

    def _characters(self) -> int:
        """Characters of the context."""
        chars = self.window.chars
        total = len(self.first) + len(self.last) + int(chars[self.n])
        for edit in self.edits:
            total += len(self._body(edit)) - int(chars[edit.stop] - chars[edit.start])
        return total - (len(self.joiner) if self.n or self.edits else 0)

    def _body(self, edit: Edit) -> str:
        """An edit as it follows a unit."""
        return edit.glue + "".join(self.joiner + needle.text for needle in edit.needles)

    def _joints(self) -> _Joints:
        """The strings whose counts, with the sums of the units between, give the context's."""
        n, edits = self.n, self.edits
        width = len(self.joiner)
        left = edits[0] if edits and edits[0].start == 0 else None
        if n == 0 or (left is not None and left.stop == n):
            whole = self.first + (self._body(left)[width:] if left else "") + self.last
            return _Joints(begin="", anchor="", end=whole, start=0, stop=0, inner=[])
        right = edits[-1] if edits and edits[-1].stop == n else None
        unit, joiner = self.window.unit, self.joiner
        if left is None:
            begin, start = self.first + unit(0), 1
        else:
            begin, start = self.first + self._body(left)[width:] + joiner + unit(left.stop), left.stop + 1
        stop = n if right is None else right.start
        anchor = unit(stop - 1)
        end = anchor + ("" if right is None else self._body(right)) + self.last
        inner = []
        for edit in edits:
            if edit is left or edit is right:
                continue
            before, after = unit(edit.start - 1), joiner + unit(edit.stop)
            gone = joiner + self.window.text(edit.start, edit.stop) if edit.stop > edit.start else ""
            inner.append((before + self._body(edit) + after, before + gone + after))
        return _Joints(begin, anchor, end, start, stop, inner)

    # -- text ----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The context."""
        return "".join(self._pieces())

    def _pieces(self) -> list[str]:
        pieces = [self.first]
        joiner, place = self.joiner, 0

        def put(text: str, glue: str = "") -> None:
            pieces.append(glue + (joiner if len(pieces) > 1 else "") + text)

        for edit in self.edits:
            if edit.start > place:
                put(self.window.text(place, edit.start))
            if edit.glue:
                pieces.append(edit.glue)
            for needle in edit.needles:
                put(needle.text)
            place = edit.stop
        if self.n > place:
            put(self.window.text(place, self.n))
        pieces.append(self.last)
        return pieces

    def spans(self) -> tuple[tuple[EvidenceSpan, ...], tuple[float, ...]]:
        """Where the needles stand, and at which depth in percent of the haystack's own tokens."""
        if not self.needles():
            return (), ()
        starts = self._token_starts()
        tokens, chars = self.window.tokens, self.window.chars
        width, whole = len(self.joiner), int(tokens[self.n])
        spans, depths = [], []
        shift = len(self.first) - width
        number = 0
        for edit in self.edits:
            at = int(chars[edit.start]) + shift + len(edit.glue)
            for k, needle in enumerate(edit.needles):
                index = edit.start + (k if edit.stop > edit.start else 0)
                start_token, end_token = starts[number]
                spans.append(
                    EvidenceSpan(
                        fact_id=needle.fact_id or f"fact{number}",
                        start_char=at + width,
                        end_char=at + width + len(needle.text),
                        start_token=start_token,
                        end_token=end_token,
                        unit_index=index,
                        role=needle.role,
                    )
                )
                depths.append(100 * int(tokens[index]) / whole if whole else 0.0)
                at += width + len(needle.text)
                number += 1
            shift += len(self._body(edit)) - int(chars[edit.stop] - chars[edit.start])
        return tuple(spans), tuple(depths)

    def _token_starts(self) -> list[tuple[int, int]]:
        """Token ranges of the needles in the context, half-open."""
        strings: list[str] = []
        for edit in self.edits:
            grown = (self.first if edit.start == 0 else self.window.unit(edit.start - 1)) + edit.glue
            strings.append(grown)
            for k, needle in enumerate(edit.needles):
                grown += ("" if edit.start == 0 and k == 0 and not edit.glue else self.joiner) + needle.text
                strings.append(grown)
        plan = self._joints()
        inner = [string for pair in plan.inner for string in pair]
        begin, *counts = self._counts([plan.begin, *strings, *inner])
        pairs = counts[len(strings) :]
        tokens = self.window.tokens
        ranges: list[tuple[int, int]] = []
        moved, place, joint = 0, 0, 0
        for edit in self.edits:
            if edit.start == 0:
                base = 0
            else:
                base = begin + int(tokens[edit.start] - tokens[plan.start]) + moved - counts[place]
            marks = counts[place : place + len(edit.needles) + 1]
            ranges += [(base + a, base + b) for a, b in pairwise(marks)]
            place += len(edit.needles) + 1
            if edit.start > 0 and edit.stop < self.n:
                moved += pairs[2 * joint] - pairs[2 * joint + 1]
                joint += 1
        return ranges

    # -- fillers -------------------------------------------------------------------------------------------------

    def filled(self, filler: str) -> Layout:
        """The same layout with a filler before its last unit, or behind it where needles leave no place before."""
        touched = {place for edit in self.edits for place in range(edit.start, edit.stop + 1)}
        free = next((place for place in range(self.n - 1, 0, -1) if place not in touched), None)
        if free is None:
            return replace(self, end_glue=filler)
        edits = sorted([*self.edits, Edit(free, free, glue=filler)], key=lambda edit: edit.start)
        return replace(self, edits=tuple(edits))


@dataclass(frozen=True)
class _Joints:
    begin: str
    anchor: str
    end: str
    start: int
    stop: int
    inner: list[tuple[str, str]]


def make_edits(placed: Sequence[tuple[int, Needle]], replacing: bool) -> tuple[Edit, ...]:
    """Edits from needles and their boundaries or unit indices; needles at one boundary keep their order."""
    ordered = sorted(placed, key=lambda entry: entry[0])
    edits: list[Edit] = []
    for place, needle in ordered:
        previous = edits[-1] if edits else None
        if replacing:
            if previous is not None and previous.stop > place:
                raise ValueError(f"two needles replace unit {place}")
            if previous is not None and previous.stop == place:
                edits[-1] = Edit(previous.start, place + 1, (*previous.needles, needle))
            else:
                edits.append(Edit(place, place + 1, (needle,)))
        elif previous is not None and previous.start == place:
            edits[-1] = Edit(place, place, (*previous.needles, needle))
        else:
            edits.append(Edit(place, place, (needle,)))
    return tuple(edits)
