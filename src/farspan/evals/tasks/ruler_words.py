"""Aggregation over words: the most common words of a numbered list, and the most frequent words of a coded text.

The answer lies nowhere in particular: the whole context is the evidence. Lengths are met by searching the number of
words.

Source: arXiv 2404.06654, section 3; the wording is ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from random import Random

import numpy as np
from scipy.special import zeta

from farspan.evals.generate.build import BuiltContext, build_context
from farspan.evals.generate.haystack.base import ListHaystack
from farspan.evals.generate.haystack.lines import pair_order
from farspan.evals.generate.haystack.word_list import coded_words
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.length import IntArray, LengthTarget, LengthTargetError, prefix_sums
from farspan.evals.generate.needle import Frame
from farspan.evals.generate.rng import mixed, shuffled
from farspan.evals.schema import EvidenceSpan, LongSample
from farspan.evals.tasks.family import Ask, Family, KnobError, Made, joined
from farspan.evals.tasks.ruler_counts import cwe_counts, zeta_counts
from farspan.evals.tasks.ruler_tasks import SHORT_LENGTH, TASKS, RulerKnobs

CWE_HEADER = "Below is a numbered list of words. Some words appear more often than others.\n"
FWE_HEADER = "Below is a coded text. Ignore the dots and find the words that appear most often.\n"
FREQUENCIES = {True: (6, 1), False: (30, 3)}
EXAMPLES = {True: (20, 3, 1), False: (40, 10, 3)}
"""Words, common and other repetitions of the worked example, for short and for full lengths."""
NUMBERED = re.compile(r"^\d+\. (\S+)$", re.MULTILINE)
NOISE_WORD = "..."
ASKED_CODES = 3
TOKENS_PER_CODE = 50
EXTRA_STARTS = 4096
"""Where a list that is longer than the word list goes on among pairs of words."""
SIZE_ROUNDS = 16
SMALLEST_RATE = 1e-3
CLOSENESS = 1000
"""A context that falls short by less than this part of its length is not built again."""


def make_cwe(
    family: Family[RulerKnobs], task: str, length: int | LengthTarget, context: int, seed: int, knobs: RulerKnobs
) -> Made:
    """A numbered list in which some words repeat more often than all others.

    Raises
    ------
    KnobError : more common words than words, or common words that are not more common.
    LengthTargetError : too short for all common words and another one.
    """
    _one_question(task, knobs)
    seeds = family.seeds(task, seed, context)
    rng = Random(seeds["needle"])
    pool = _pool(rng)
    if knobs.num_cw >= len(pool):
        raise KnobError(f"{knobs.num_cw} common words are more than the {len(pool)} there are; lower num_cw")
    common = tuple(sorted(pool[: knobs.num_cw]))
    max_new_tokens = family.room([", ".join(common)], TASKS[task].tokens_to_generate)
    target = family.target(length, max_new_tokens)
    short = target.unit == "tokens" and target.value < SHORT_LENGTH
    frequent, rare = FREQUENCIES[short]
    frequent, rare = knobs.freq_cw or frequent, knobs.freq_ucw or rare
    if frequent <= rare:
        raise KnobError(f"common words must repeat more often than others, got freq_cw {frequent}, freq_ucw {rare}")
    ask = _ask_common(common)
    preamble = (_example(rng, pool, knobs.num_cw, short) if knobs.worked_example else "") + CWE_HEADER
    frame = family.frame(preamble=preamble, closing="\n", tails=[ask.tail])
    extra = islice(pair_order(), seeds["haystack"] % EXTRA_STARTS, None)
    placement_seed = family.seeds(task, seed, context, length=target.value)["placement"]

    def words(size: int) -> list[str]:
        if size > len(pool):
            pool.extend(islice(extra, size - len(pool)))
        return pool[:size]

    def listed(size: int) -> list[str]:
        repeated = [word for word in common for _ in range(frequent)]
        repeated += [word for word in words(size)[knobs.num_cw :] for _ in range(rare)]
        return mixed(Random(placement_seed), repeated)

    def build(size: int) -> BuiltContext:
        units = [f"{i}. {word}" for i, word in enumerate(listed(size), 1)]
        return _listed(family, units, "\n", frame, target, "numbered", seam=".")

    # A word's end stands before every number, and a number before every word.
    numbers = _Sums(lambda n: family.counter.recurring([f"\n{i}." for i in range(1, n + 1)], "a"))
    bodies = _Sums(lambda n: family.counter.recurring([f" {word}" for word in words(n)], "1."))

    def weight(size: int) -> int:
        others = size - knobs.num_cw
        once = bodies.of(knobs.num_cw)
        return numbers.of(knobs.num_cw * frequent + others * rare) + frequent * once + rare * (bodies.of(size) - once)

    built = fit_size(build, knobs.num_cw + 1, target, weight)
    distinct = knobs.num_cw + (built.units_kept - knobs.num_cw * frequent) // rare
    ask = replace(ask, metadata={**ask.metadata, **cwe_counts(distinct, frequent, rare, knobs.num_cw)})
    return Made(target, built, (ask,), max_new_tokens)


def make_fwe(
    family: Family[RulerKnobs], task: str, length: int | LengthTarget, context: int, seed: int, knobs: RulerKnobs
) -> Made:
    """A text of invented words whose frequencies fall with rank; the most frequent one is written as dots.

    Raises
    ------
    LengthTargetError : too short for five ranks of different counts.
    """
    _one_question(task, knobs)
    seeds = family.seeds(task, seed, context)
    max_new_tokens = family.room(["abcdef, " * ASKED_CODES], TASKS[task].tokens_to_generate)
    target = family.target(length, max_new_tokens)
    vocabulary = max(ASKED_CODES + 2, (target.value - max_new_tokens) // TOKENS_PER_CODE)
    codes = [NOISE_WORD, *coded_words(Random(seeds["needle"]), vocabulary - 1)]
    answers = tuple(codes[1 : 1 + ASKED_CODES])
    metadata = {"alpha": knobs.alpha, "instruction": "Answer with the three words alone, most frequent first."}
    ask = Ask(
        "Question: which three coded words appear most often?\n",
        "Answer: The three most frequent coded words are",
        answers,
        None,
        "all_required",
        metadata,
    )
    frame = family.frame(preamble=FWE_HEADER, closing="\n", tails=[ask.tail])
    placement_seed = family.seeds(task, seed, context, length=target.value)["placement"]

    def build(size: int) -> BuiltContext:
        counts = zeta_counts(size, vocabulary, knobs.alpha)
        text = [code for code, count in zip(codes, counts, strict=True) for _ in range(count)]
        return _listed(family, mixed(Random(placement_seed), text), " ", frame, target, "coded")

    tokens = family.counter.count_units([f" {code}" for code in codes], codes[1])

    shares = np.arange(1, vocabulary + 1, dtype=np.float64) ** -knobs.alpha / float(zeta(knobs.alpha))

    def weight(size: int) -> int:
        return int((tokens * np.floor(size * shares)).sum())

    smallest = 1
    while len(set(zeta_counts(smallest, ASKED_CODES + 2, knobs.alpha))) < ASKED_CODES + 2:
        smallest += 1
    return Made(target, fit_size(build, smallest, target, weight), (ask,), max_new_tokens)


def fit_size(
    build: Callable[[int], BuiltContext], smallest: int, target: LengthTarget, weight: Callable[[int], int]
) -> BuiltContext:
    """A context of nearly the largest size that meets a target.

    Parameters
    ----------
    build : builds a context of a size; greater sizes give longer contexts
    smallest : the smallest size that makes sense
    weight : about what the units of a context of a size take, tokens; a good guess saves building

    Raises
    ------
    LengthTargetError : the smallest size does not fit.
    """
    if target.unit == "units":
        return build(max(target.value, smallest))
    low, best, high = smallest, build(smallest), None
    left = target.value - measure(best, target)
    if left < 0:
        raise LengthTargetError(
            f"{target.value} {target.unit} are too few; the smallest feasible length is {target.value - left}"
        )
    if target.unit == "tokens":
        guess = _heaviest(weight, smallest, weight(smallest) + left)
        built = build(guess)
        spare = target.value - measure(built, target)
        if spare < 0:
            high = guess
        else:
            low, best, left = guess, built, spare
    per_size = max(left / low, SMALLEST_RATE) if high is None else max(left / (high - low), SMALLEST_RATE)
    if low > smallest and left < target.value / CLOSENESS:
        return best
    for _ in range(SIZE_ROUNDS):
        size = low + max(1, int(left / per_size))
        if high is not None:
            size = min(size, high - 1)
        if size <= low:
            break
        built = build(size)
        spare = target.value - measure(built, target)
        per_size = max((left - spare) / (size - low), SMALLEST_RATE)
        if spare < 0:
            high = size
            continue
        low, best, left = size, built, spare
        if left < max(per_size, target.value / CLOSENESS):
            break
    return best


class _Sums:
    """Sums over the first so many counts, counted in growing steps."""

    def __init__(self, count: Callable[[int], IntArray]) -> None:
        self._count = count
        self._sums = prefix_sums([])

    def of(self, n: int) -> int:
        """Sum of the first n."""
        if n >= len(self._sums):
            self._sums = prefix_sums(self._count(n + n // 4))
        return int(self._sums[n])


def _heaviest(weight: Callable[[int], int], smallest: int, limit: int) -> int:
    """The largest size whose weight is within the limit, at least `smallest`."""
    step = smallest
    while weight(smallest + step) <= limit:
        step *= 2
    low, high = smallest + step // 2 if step > smallest else smallest, smallest + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if weight(middle) <= limit else (low, middle)
    return low


def measure(built: BuiltContext, target: LengthTarget) -> int:
    """The size of a context in the unit and by the semantics of a target."""
    if target.unit == "chars":
        return len(built.text)
    return built.n_context_tokens if target.semantics == "context" else built.n_total_tokens


def _one_question(task: str, knobs: RulerKnobs) -> None:
    if knobs.questions_per_context > 1:
        raise KnobError(f"task '{task}' asks one question a context, not {knobs.questions_per_context}")


def _listed(
    family: Family[RulerKnobs],
    units: Sequence[str],
    joiner: str,
    frame: Frame,
    target: LengthTarget,
    kind: str,
    seam: str = "",
) -> BuiltContext:
    """A context of exactly these units; the whole list is its evidence."""
    haystack = ListHaystack(units, joiner, kind=kind, seam=seam)
    fixed = LengthTarget(value=len(units), unit="units", reserve=target.reserve)
    built = build_context(haystack, [], fixed, family.counter, seed=0, frame=frame)
    if built.mode == "verify":
        around, tokens = built.n_total_tokens - built.n_context_tokens, family.counter.verify(built.text)
        built = replace(built, n_context_tokens=tokens, n_total_tokens=tokens + around, counted="verified")
    span = EvidenceSpan(fact_id=kind, start_char=len(frame.preamble), end_char=len(built.text) - len(frame.closing))
    return replace(built, spans=(span,))


def _pool(rng: Random) -> list[str]:
    words = load_language("en")
    return shuffled(rng, sorted({*words.nouns, *words.verbs, *words.adjectives}))


def _ask_common(common: Sequence[str]) -> Ask:
    count = len(common)
    metadata = {"instruction": f"Answer with the {count} words alone."}
    return Ask(
        f"Question: which {count} words are the most common in the list?\n",
        f"Answer: The {count} most common words in the list are",
        tuple(common),
        None,
        "all_required",
        metadata,
    )


def _example(rng: Random, pool: list[str], num_cw: int, short: bool) -> str:
    """A solved small list; its words leave the pool."""
    count, frequent, rare = EXAMPLES[short]
    common = min(num_cw, count // 2)
    words = [pool.pop() for _ in range(count)]
    repeated = [word for i, word in enumerate(words) for _ in range(frequent if i < common else rare)]
    items = [f"{i}. {word}\n" for i, word in enumerate(shuffled(rng, repeated), 1)]
    return CWE_HEADER + "".join(items) + _ask_common(words[:common]).tail + f" {joined(sorted(words[:common]))}.\n\n"


def solve_cwe(sample: LongSample) -> list[str]:
    """The most common words in alphabetical order, by counting the last list of the text."""
    counts = Counter(NUMBERED.findall(sample.text[sample.text.rfind(CWE_HEADER) :]))
    asked = re.search(r"which (\d+) words", sample.question)
    return sorted(word for word, _ in counts.most_common(int(asked[1]) if asked else 0))


def solve_fwe(sample: LongSample) -> list[str]:
    """The three most frequent words, by counting the text without its dots."""
    counts = Counter(sample.text[len(FWE_HEADER) :].split())
    counts.pop(NOISE_WORD, None)
    return [word for word, _ in counts.most_common(ASKED_CODES)]


def listed_words(sample: LongSample, output: str) -> list[str]:
    """All words an output names."""
    return re.findall(r"[a-z]+(?:-[a-z]+)?", output.lower())
