"""Needle threading: independent lookups and chains of lookups in a haystack of nothing but pairs.

Every pair looks like every other, so there is no needle to spot, only keys to find; a thread makes each value the next
key. Not a test of language, except in its prose style, where sentences about roads take the place of the pairs.

Source: arXiv 2411.05000.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from farspan.evals.generate.build import BuiltContext, build_context
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.length import LengthTarget, LengthTargetError
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.generate.rng import sample_indices
from farspan.evals.metrics import match_share, uuid_match
from farspan.evals.schema import AnswerKind, LongSample, Role
from farspan.evals.tasks.family import Ask, Family, KnobError, Knobs, Made
from farspan.evals.tasks.thread_styles import JsonPairs, PairHaystack, RoadProse
from farspan.evals.tasks.uuid_threads import (
    Direction,
    Pair,
    follow_branches,
    follow_thread,
    make_branched,
    make_thread,
    mark_keys,
    needle_index,
)

LOOKUPS = ("single", "multi", "conditional")
OFFICIAL_NEW_TOKENS, OFFICIAL_TOKENS_PER_VALUE = 64, 48


class NeedleThreadingKnobs(Knobs):
    """Knobs of needle threading.

    style : `json` pairs of identifiers, or `prose`
    n_needles : values asked for in `multi` and `conditional`
    placement : needles and threads anywhere, or on neighbouring places from a random start
    character : marks the keys of `conditional`
    thread_length : pairs of a thread, one more than its hops
    direction : whether a thread runs towards the end of the context, towards its start, or both ways
    n_threads : threads a question follows in `multi_thread` and `thread_safe`
    branching : pairs that share a key at each step of `branched`
    leaves : `branched` asks for the end of the longest branch, or of all
    road_share : share of the sentences that are roads, in prose
    haystack_seed : seed of the pairs; None derives it from the sample's seed
    """

    style: Literal["json", "prose"] = "json"
    n_needles: int = Field(default=5, ge=1)
    placement: Literal["random", "clustered"] = "random"
    character: str = "*"
    thread_length: int = Field(default=5, ge=1)
    direction: Direction = "forward"
    n_threads: int = Field(default=2, ge=1)
    branching: int = Field(default=2, ge=2)
    leaves: Literal["longest", "all"] = "longest"
    road_share: float = Field(default=0.3, ge=0, le=1)
    haystack_seed: int | None = None


@dataclass
class _Draft:
    """A haystack being prepared: its pairs, and for each question the keys it names, its answers and its pairs."""

    pairs: list[Pair]
    keys: list[list[str]] = field(default_factory=list)
    answers: list[list[str]] = field(default_factory=list)
    evidence: list[tuple[int, ...]] = field(default_factory=list)
    depths: list[float | None] = field(default_factory=list)

    def add(self, keys: Sequence[str], answers: Sequence[str], evidence: Sequence[int], depth: float | None) -> None:
        self.keys.append(list(keys))
        self.answers.append(list(answers))
        self.evidence.append(tuple(evidence))
        self.depths.append(depth)


class NeedleThreading(Family[NeedleThreadingKnobs]):
    """The family: `single`, `multi`, `conditional`, `thread`, `multi_thread`, `branched`, `thread_safe`."""

    name = "needle_threading"
    tasks = ("single", "multi", "conditional", "thread", "multi_thread", "branched", "thread_safe")
    lengths = (1229, 2560, 5120, 10240, 20480, 32768, 65536, 131072)
    samples = 55
    skills: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(tasks, "tracing"),
        **dict.fromkeys(LOOKUPS, "retrieval"),
    }
    knobs_model = NeedleThreadingKnobs
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "multi_thread": {"n_threads": 5},
        "branched": {"thread_length": 3},
        "thread_safe": {"thread_length": 3, "direction": "random", "n_threads": 10},
    }

    def __init__(
        self,
        tokenizer: TokenCounter | object,
        *,
        chat: bool = False,
        template_tokens: int | None = None,
        references: Sequence[TokenCounter] = (),
    ) -> None:
        super().__init__(tokenizer, chat=chat, template_tokens=template_tokens, references=references)
        self._styles: dict[tuple[str, float], PairHaystack] = {}

    def style(self, knobs: NeedleThreadingKnobs) -> PairHaystack:
        """The haystack and wording of a style."""
        key = (knobs.style, knobs.road_share if knobs.style == "prose" else 0.0)
        if key not in self._styles:
            words = load_language("en")
            prose = knobs.style == "prose"
            made = RoadProse(words.adjectives, words.nouns, knobs.road_share) if prose else JsonPairs()
            self._styles[key] = made
        return self._styles[key]

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: NeedleThreadingKnobs) -> Made:
        """One haystack with its lookups or threads.

        Raises
        ------
        KnobError : knobs that do not go with the task or the style.
        LengthTargetError : more pairs are needed than fit.
        """
        _check(task, knobs)
        haystack = self.style(knobs)
        # One haystack serves all tasks of a seed and length; only links and questions differ.
        seeds = self.seeds("pairs", seed, context)
        pair_seed = seeds["haystack"] if knobs.haystack_seed is None else knobs.haystack_seed
        form, many = _form(task, knobs)
        sample_pairs = haystack.pairs(pair_seed, 16)
        values = [value for _, value in sample_pairs]
        max_new_tokens = self.room(
            [", ".join(values[:1] * many)], OFFICIAL_NEW_TOKENS + OFFICIAL_TOKENS_PER_VALUE * many
        )
        target = self.target(length, max_new_tokens)
        placement = self.seeds(task, seed, context, length=target.value)["placement"]
        depths = self.depths(context, knobs)

        def attempt(frame: Frame) -> tuple[BuiltContext, tuple[Ask, ...]]:
            drafts: dict[int, _Draft] = {}

            def place(n: int, rng: Random) -> list[tuple[int, Needle]]:
                draft = _prepare(task, haystack.pairs(pair_seed, n), knobs, depths, rng)
                drafts[n] = draft
                role: Role = "needle" if task in LOOKUPS else "chain"
                needles: dict[int, Needle] = {}
                for index in dict.fromkeys(index for indices in draft.evidence for index in indices):
                    pair = draft.pairs[index]
                    needles[index] = Needle(haystack.write(pair), fact_id=pair[0], role=role)
                return sorted(needles.items())

            built = build_context(
                haystack,
                place,
                target,
                self.counter,
                seed=pair_seed,
                placement_seed=placement,
                frame=frame,
                mode="replace",
                min_units=_pairs_needed(task, knobs),
            )
            return built, self._asks(task, form, haystack, drafts[built.units_kept], built, knobs)

        named = 1 if task in ("single", "conditional", "thread", "branched") else many
        guess_keys = [knobs.character] if task == "conditional" else [sample_pairs[0][0]] * named
        guess = ["".join(haystack.ask(form, guess_keys))] * knobs.questions_per_context
        built, asks = self.settle(attempt, self.frame(closing="\n", tails=guess))
        return Made(target, built, asks, max_new_tokens)

    def _asks(
        self,
        task: str,
        form: str,
        haystack: PairHaystack,
        draft: _Draft,
        built: BuiltContext,
        knobs: NeedleThreadingKnobs,
    ) -> tuple[Ask, ...]:
        asks = []
        for keys, answers, evidence, depth in zip(draft.keys, draft.answers, draft.evidence, draft.depths, strict=True):
            question, prefix = haystack.ask(form, keys)
            kind: AnswerKind = (
                "all_required" if len(answers) > 1 or task in ("multi", "conditional") else "alternatives"
            )
            metadata: dict[str, object] = {
                "num_kv_pairs": built.units_kept,
                "pair_indices": list(evidence),
                "style": knobs.style,
                "stop": list(haystack.stop),
            }
            if task not in LOOKUPS:
                metadata |= {"thread_length": knobs.thread_length, "hops": knobs.thread_length - 1}
            if kind == "all_required":
                metadata["instruction"] = "Answer with the values alone, separated by commas."
            asks.append(Ask(question, prefix, tuple(answers), depth, kind, metadata))
        return tuple(asks)

    def solve(self, sample: LongSample) -> list[str]:
        """The values asked for, found by reading all pairs of the text and walking them as the question says."""
        haystack = self.style(NeedleThreadingKnobs(style="prose" if sample.metadata["style"] == "prose" else "json"))
        pairs = haystack.read(sample.text)
        keys = haystack.named(sample.question)
        if sample.task == "conditional":
            return [value for key, value in pairs if keys[0] in key]
        if sample.task == "branched":
            ends = follow_branches(pairs, keys[0])
            longest = max(steps for _, steps in ends)
            return [value for value, steps in ends if steps == longest or "longest" not in sample.question]
        steps = 1 if sample.task in LOOKUPS else None
        return [follow_thread(pairs, key, steps)[0] for key in keys]

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Samples of a published file; see `needle_threading_paper.read_official`."""
        from farspan.evals.tasks.needle_threading_paper import read_official

        return read_official(data, task)

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: for one value whether the last value of the output is right, for several the share found.

        Identifiers also give `precision`, `all_correct`, `exact_order`, `prefix_match`, `no_answer`, and
        `copy_errors`, the answers that stand there with one or two wrong characters.
        """
        single = sample.answer_kind == "alternatives"
        if sample.metadata.get("style") == "prose":
            names = RoadProse.NAME.findall(output)
            share = match_share(output, sample.answers)
            last = bool(names) and names[-1] == sample.answers[0]
            return {"score": float(last) if single else share, "accuracy": share, "no_answer": float(not names)}
        found = uuid_match(output, sample.answers, "last" if single else "all")
        wanted = ("accuracy", "precision", "all_correct", "exact_order", "prefix_match", "no_answer", "copy_errors")
        return {"score": found["score"], **{name: float(dict(found)[name]) for name in wanted}}  # type: ignore[arg-type]


def _check(task: str, knobs: NeedleThreadingKnobs) -> None:
    if task in ("conditional", "branched") and knobs.questions_per_context > 1:
        raise KnobError(f"task '{task}' asks one question a context, not {knobs.questions_per_context}")
    if task == "conditional" and knobs.style == "prose" and (knobs.character.isalnum() or knobs.character == "."):
        raise KnobError(f"the character '{knobs.character}' cannot mark names in prose; use a sign such as '*'")


def _pairs_needed(task: str, knobs: NeedleThreadingKnobs) -> int:
    """Pairs a haystack must have for its questions."""
    if task == "single":
        return 1
    if task in ("multi", "conditional"):
        return knobs.n_needles
    if task == "branched":
        steps = range(1, knobs.thread_length)
        return knobs.thread_length + (knobs.branching - 1) * sum(steps)
    return knobs.thread_length * knobs.questions_per_context * (1 if task == "thread" else knobs.n_threads)


def _form(task: str, knobs: NeedleThreadingKnobs) -> tuple[str, int]:
    """The wording of a task, and how many values its answer can hold."""
    if task in ("single", "thread"):
        return task, 1
    if task in ("multi", "conditional"):
        return ("single" if task == "multi" and knobs.n_needles == 1 else task), knobs.n_needles
    if task == "branched":
        leaves = 1 + (knobs.thread_length - 1) * (knobs.branching - 1)
        return ("longest", 1) if knobs.leaves == "longest" else ("leaves", leaves)
    return ("thread" if knobs.n_threads == 1 else "threads"), knobs.n_threads


def _prepare(task: str, pairs: list[Pair], knobs: NeedleThreadingKnobs, depths: Sequence[float], rng: Random) -> _Draft:
    """Link and mark the pairs, and choose what the questions ask."""
    draft = _Draft(pairs)
    if task == "single":
        for depth in depths:
            index = needle_index(len(pairs), depth)
            draft.add([pairs[index][0]], [pairs[index][1]], [index], depth)
    elif task in ("multi", "conditional"):
        for _ in depths:
            chosen = _places(knobs, len(pairs), knobs.n_needles, rng)
            if task == "conditional":
                draft.pairs = mark_keys(pairs, chosen, knobs.character, rng)
                draft.add([knobs.character], [pairs[i][1] for i in sorted(chosen)], sorted(chosen), None)
            else:
                rng.shuffle(chosen)
                draft.add([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen], chosen, None)
    elif task == "branched":
        draft.pairs, tree = make_branched(pairs, knobs.thread_length, knobs.branching, rng)
        answers = [tree.answer] if knobs.leaves == "longest" else tree.leaves
        draft.add([tree.start], answers, tree.places, None)
    else:
        _thread(draft, 1 if task == "thread" else knobs.n_threads, len(depths), knobs, rng)
    return draft


def _thread(draft: _Draft, per_question: int, questions: int, knobs: NeedleThreadingKnobs, rng: Random) -> None:
    """Run disjoint threads through the pairs, `per_question` of them for each question."""
    places = _places(knobs, len(draft.pairs), questions * per_question * knobs.thread_length, rng)
    rng.shuffle(places)
    for _ in range(questions):
        starts: list[str] = []
        answers: list[str] = []
        evidence: list[int] = []
        for _ in range(per_question):
            mine = [places.pop() for _ in range(knobs.thread_length)]
            draft.pairs, thread = make_thread(draft.pairs, mine, knobs.direction, rng)
            starts.append(thread.start)
            answers.append(thread.answer)
            evidence.extend(thread.order)
        draft.add(starts, answers, evidence, None)


def _places(knobs: NeedleThreadingKnobs, n: int, count: int, rng: Random) -> list[int]:
    """`count` distinct places among n, anywhere or in one run."""
    if count > n:
        raise LengthTargetError(f"the questions need {count} pairs but there are {n}; use a longer context or ask less")
    if knobs.placement == "clustered":
        start = rng.randrange(n - count + 1)
        return list(range(start, start + count))
    return sample_indices(rng, n, count)
