"""Graph tracing: words as nodes of a hidden graph, a random walk over it, and the question where it can go next.

The words lose their meaning and the rule is never told, so that whoever names a neighbour has learned it from this
context alone. Nothing is hidden at a place: every earlier step from the last word helps, and what is measured is how
much context that takes.

Source: arXiv 2501.00070, section 2; the lists of words are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from farspan.evals.generate.build import BuiltContext, build_context
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Frame
from farspan.evals.generate.rng import derive_seed, shuffled
from farspan.evals.graphs import GraphError, IntArray, grid_graph, hex_graph, ring_graph
from farspan.evals.schema import EvidenceSpan, LongSample
from farspan.evals.tasks.family import Ask, Family, KnobError, Knobs, Made

PUBLISHED_WORDS = (
    *("apple", "bird", "car", "egg", "house", "milk", "plane", "opera"),
    *("box", "sand", "sun", "mango", "rock", "math", "code", "phone"),
)
ORDERED_WORDS: Mapping[str, tuple[str, ...]] = {
    "weekdays": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "months": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
}
WORD = re.compile(r"[^\W\d_]+")
OFFICIAL_NEW_TOKENS = 8
MOST_SPANS = 64
"""Earlier steps from the last word that are noted as evidence, the nearest ones."""


class GraphKnobs(Knobs):
    """Knobs of graph tracing.

    rows, cols : of `grid` and `hex`
    nodes : of `ring`
    sampling : one long walk, or neighbouring pairs that have nothing to do with each other
    """

    rows: int = Field(default=4, ge=1)
    cols: int = Field(default=4, ge=1)
    nodes: int = Field(default=10, ge=3)
    sampling: Literal["walk", "pairs"] = "walk"


class Steps(Haystack):
    """A walk over words, or pairs of neighbours; one unit a word, or a pair. All of it follows from the seed."""

    joiner = " "
    recurring = True

    def __init__(self, graph: IntArray, words: Sequence[str], pairs: bool) -> None:
        self._neighbours = [[int(other) for other in row.nonzero()[0]] for row in graph]
        self._words, self._pairs = tuple(words), pairs
        self._held: tuple[int, Random, list[int]] | None = None

    def nodes(self, seed: int, n: int) -> list[int]:
        """The nodes of the first `n` units: one each for a walk, two each for pairs."""
        if self._held is None or self._held[0] != seed:
            self._held = (seed, Random(derive_seed(seed, "steps")), [])
        _, rng, found = self._held
        draw, neighbours = rng.random, self._neighbours
        wanted = 2 * n if self._pairs else n
        while len(found) < wanted:
            fresh = not found or (self._pairs and len(found) % 2 == 0)
            around = range(len(neighbours)) if fresh else neighbours[found[-1]]
            found.append(around[int(draw() * len(around))])
        return found[:wanted]

    def asked(self, seed: int, n: int) -> list[int]:
        """The nodes of the first `n` units and the one that is asked about: the next that a text holds, if apart."""
        if not self._pairs:
            return self.nodes(seed, n + 1)
        known, more = self.nodes(seed, n), n
        while True:
            more += 1
            node = self.nodes(seed, more)[-2]
            if node in known:
                return [*known, node]

    def units(self, seed: int, n: int) -> list[str]:
        words = [self._words[node] for node in self.nodes(seed, n)]
        return [f"{one} {other}" for one, other in zip(words[::2], words[1::2], strict=True)] if self._pairs else words

    @property
    def kind(self) -> str:
        return f"steps:{'pairs' if self._pairs else 'walk'}:{','.join(sorted(self._words))}"


class GraphTracing(Family[GraphKnobs]):
    """The family: `grid`, `ring` and `hex` of unrelated words, and rings of `weekdays` and `months` out of order."""

    name = "graph_tracing"
    tasks = ("grid", "ring", "hex", "weekdays", "months")
    lengths = (64, 128, 256, 512, 1024, 1408)
    samples = 64
    knobs_model = GraphKnobs
    instruction = "These words follow a hidden rule. Answer with one word that can come next, and nothing else."
    skills: ClassVar[Mapping[str, str]] = dict.fromkeys(tasks, "rule learning")

    def __init__(
        self,
        tokenizer: TokenCounter | object,
        *,
        chat: bool = False,
        template_tokens: int | None = None,
        references: Sequence[TokenCounter] = (),
    ) -> None:
        super().__init__(tokenizer, chat=chat, template_tokens=template_tokens, references=references)
        self._node_words: dict[int, list[str]] = {}

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: GraphKnobs) -> Made:
        """One walk up to a word, and the question which word can follow.

        Raises
        ------
        KnobError : several questions on one context, or a graph that cannot be walked.
        """
        if knobs.questions_per_context > 1:
            raise KnobError(f"task '{task}' asks one question a context, not {knobs.questions_per_context}")
        try:
            graph = graph_of(task, knobs)
        except GraphError as error:
            raise KnobError(f"task '{task}': {error}") from error
        seeds = self.seeds(task, seed, context)
        words = self.words(task, len(graph), Random(seeds["needle"]))
        pairs = knobs.sampling == "pairs"
        steps = Steps(graph, words, pairs)
        max_new_tokens = self.room([f" {word}" for word in words], OFFICIAL_NEW_TOKENS)
        target = self.target(length, max_new_tokens)

        def attempt(frame: Frame) -> tuple[BuiltContext, tuple[Ask, ...]]:
            built = build_context(
                steps, [], target, self.counter, seed=seeds["haystack"], frame=frame, min_units=1 if pairs else 2
            )
            nodes = steps.asked(seeds["haystack"], built.units_kept)
            return built, (self._ask(graph, words, nodes, pairs),)

        longest = max(words, key=lambda word: (self.counter.count(f" {word}"), word))
        built, asks = self.settle(attempt, self.frame(tails=[f" {longest}"]))
        spans = _evidence(built.text, asks[0].question.strip(), pairs)
        return Made(target, replace(built, spans=spans), asks, max_new_tokens)

    def _ask(self, graph: IntArray, words: Sequence[str], nodes: Sequence[int], pairs: bool) -> Ask:
        allowed = sorted(words[int(node)] for node in graph[nodes[-1]].nonzero()[0])
        seen = seen_neighbours([words[node] for node in nodes], pairs)
        metadata = {
            "neighbours": allowed,
            "words": list(words),
            "n_nodes": len(graph),
            "n_steps": len(nodes),
            "visited": len(set(nodes)) / len(graph),
            "sampling": "pairs" if pairs else "walk",
            "chance": len(allowed) / len(graph),
            "alternative_evidence": True,
        }
        return Ask(f" {words[nodes[-1]]}", "", tuple(seen), None, metadata=metadata)

    def words(self, task: str, count: int, rng: Random) -> list[str]:
        """A word for each node, in drawn order; where the tokenizer has enough of them, words of one token.

        Raises
        ------
        KnobError : more nodes than words.
        """
        if task in ORDERED_WORDS:
            return shuffled(rng, ORDERED_WORDS[task])
        if count not in self._node_words:
            self._node_words[count] = node_words(count, self.counter)
        return shuffled(rng, self._node_words[count])

    def solve(self, sample: LongSample) -> list[str]:
        """The words that stood beside the last one anywhere in the text, either way."""
        pairs = sample.metadata.get("sampling") == "pairs"
        return seen_neighbours(WORD.findall(sample.text + sample.question), pairs)

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """The grid."""
        return ("grid",)

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: whether the first word is a neighbour of the last one; `in_words`: whether it is a node at all."""
        found = WORD.search(output)
        word = found[0].lower() if found else ""
        neighbours, words = (_lower(sample.metadata[name]) for name in ("neighbours", "words"))
        return {"score": float(word in neighbours), "in_words": float(word in words), "no_answer": float(not word)}


def graph_of(task: str, knobs: GraphKnobs) -> IntArray:
    """The graph of a task."""
    if task in ORDERED_WORDS:
        return ring_graph(len(ORDERED_WORDS[task]))
    if task == "ring":
        return ring_graph(knobs.nodes)
    if knobs.rows * knobs.cols < 2:
        raise GraphError("a graph of one node has no steps")
    return (grid_graph if task == "grid" else hex_graph)(knobs.rows, knobs.cols)


def node_words(count: int, counter: TokenCounter) -> list[str]:
    """Words for nodes: the published ones that are one token behind a space, then further nouns that are.

    Where fewer than `count` are one token, the published words and then further nouns serve, whatever they take.

    Raises
    ------
    KnobError : more nodes than words.
    """
    pool = list(dict.fromkeys([*PUBLISHED_WORDS, *load_language("en").nouns]))
    single = [word for word, size in zip(pool, counter.count_many([f" {w}" for w in pool]), strict=True) if size == 1]
    chosen = single if len(single) >= count else pool
    if len(chosen) < count:
        raise KnobError(f"{count} nodes are more than the {len(pool)} words there are; take a smaller graph")
    return chosen[:count]


def seen_neighbours(words: Sequence[str], pairs: bool) -> list[str]:
    """Words that stand beside an occurrence of the last one, sorted; in pairs, only its partners count.

    The last word is the one in question: what stands before it counts in a walk, and not in pairs.
    """
    last = words[-1]
    step = 2 if pairs else 1
    beside = {
        other
        for place in range(0, len(words) - 1, step)
        for one, other in ((words[place], words[place + 1]), (words[place + 1], words[place]))
        if one == last
    }
    return sorted(beside)


def _evidence(text: str, last: str, pairs: bool) -> tuple[EvidenceSpan, ...]:
    """The words that followed, or in pairs went with, the nearest earlier occurrences of the last one."""
    words = list(WORD.finditer(text))
    spans: list[EvidenceSpan] = []
    for place in range(len(words) - 1, -1, -1):
        if len(spans) == MOST_SPANS:
            break
        if words[place][0] != last:
            continue
        other = place ^ 1 if pairs else place + 1
        if other >= len(words):
            other = place - 1
        if 0 <= other < len(words):
            start, end = words[other].span()
            spans.append(EvidenceSpan(fact_id=last, start_char=start, end_char=end, unit_index=other))
    if not spans and words and not pairs:
        start, end = words[-1].span()
        spans = [EvidenceSpan(fact_id=last, start_char=start, end_char=end, unit_index=len(words) - 1)]
    return tuple(reversed(spans))


def _lower(words: object) -> set[str]:
    assert isinstance(words, Sequence)
    return {str(word).lower() for word in words}
