"""What a run asks, in which order, and what becomes of a reply: shared by local models and endpoints.

Nothing here talks to a model. A run is a list of cells, one for each probe and length; a cell's questions come in
order of their contexts, so that a cache of prefixes is of use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError
from farspan.evals.core import Probe
from farspan.evals.evaluation import Answer
from farspan.evals.generate.length import LengthTargetError
from farspan.evals.prompt import Prompt
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Family, Knobs

PREVIEW = 200
THINKING_ENDS = "</think>"
THINKING_STARTS = "<think>"


class Cell(BaseModel):
    """`n` questions of one probe at one length, from number `first` on."""

    model_config = ConfigDict(frozen=True)

    probe: Probe
    length: int
    n: int
    first: int = 0

    @property
    def indices(self) -> range:
        """The numbers of its questions."""
        return range(self.first, self.first + self.n)


class Heard(BaseModel):
    """A reply, or why there is none.

    text : without any reasoning
    truncated : it ended at the token limit
    error : empty where a reply came
    too_long : the prompt was refused for its length
    """

    model_config = ConfigDict(frozen=True)

    text: str = ""
    truncated: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    error: str = ""
    too_long: bool = False


def cells_of(probes: Sequence[Probe], lengths: Sequence[int], n: int, limit: int | None = None) -> list[Cell]:
    """The cells of a run, shortest lengths first.

    Parameters
    ----------
    n : questions a probe and length, rounded up to whole contexts
    limit : questions in all; contexts are taken from all cells in turn until they are used up

    Raises
    ------
    FarspanError : no length, no question, or a limit that leaves nothing.
    """
    if not lengths or n < 1:
        raise FarspanError("an evaluation needs at least one length and one question")
    if limit is not None and limit < 1:
        raise FarspanError(f"a limit of {limit} questions leaves nothing to ask; give 1 or more")
    wanted = [(probe, length) for probe in probes for length in sorted(set(lengths))]
    counts = [rounded(n, probe) for probe, _ in wanted]
    if limit is not None and limit < sum(counts):
        counts = _limited(counts, [probe.questions_per_context for probe, _ in wanted], limit)
    return [
        Cell(probe=probe, length=length, n=count)
        for (probe, length), count in zip(wanted, counts, strict=True)
        if count
    ]


def _limited(counts: Sequence[int], steps: Sequence[int], limit: int) -> list[int]:
    """Contexts from all cells in turn, as long as the next one still fits into the limit."""
    taken = [0] * len(counts)
    more = True
    while more:
        more = False
        for i, step in enumerate(steps):
            step = min(step, counts[i] - taken[i], limit - sum(taken))
            taken[i] += step
            more |= step > 0
    return taken


def rounded(n: int, probe: Probe) -> int:
    """`n` questions, or the probe's share of them, in whole contexts."""
    wanted = max(1, round(n * probe.share))
    return -(-wanted // probe.questions_per_context) * probe.questions_per_context


def samples_of(
    probe: Probe, family: Family[Knobs], length: int, indices: Sequence[int], seed: int
) -> tuple[list[LongSample], int]:
    """Samples, and how many questions share a context: fewer than the probe wishes where a context is too short."""
    shared = probe.questions_per_context
    while True:
        knobs = {**probe.knobs, "questions_per_context": shared}
        try:
            return [family.sample(probe.task, length, index, seed, **knobs) for index in indices], shared
        except LengthTargetError:
            if shared == 1:
                raise
            shared //= 2


def answer_id(probe: Probe, seed: int, index: int) -> str:
    """The id of a question, the same at every length and for every model."""
    return f"{probe.name}/{seed}/{index}"


def answer_of(
    probe: Probe,
    family: Family[Knobs],
    sample: LongSample,
    prompt: Prompt,
    heard: Heard,
    others: Sequence[Heard],
    *,
    index: int,
    seed: int,
    shared: int,
) -> Answer:
    """What is kept of a question: the score and all other figures, or why there are none.

    Parameters
    ----------
    others : replies to the sample's companions
    shared : questions on one context
    """
    error = next((one.error for one in (heard, *others) if one.error), "")
    figures: Mapping[str, float] = {}
    if not error:
        figures = family.joint_scores(sample, heard.text, [other.text for other in others])
    exact = str(sample.metadata.get("length_unit", "")).startswith("tokens:") and not family.counter.guesses
    total = sample.metadata.get("n_total_tokens", 0)
    return Answer(
        id=answer_id(probe, seed, index),
        length=sample.length,
        depth=sample.depth,
        cluster=f"{sample.length}/{index // shared}",
        score=figures.get("score", 0.0),
        output=heard.text,
        expected=tuple(sample.answers),
        question=sample.question + sample.answer_prefix,
        preview=sample.text[:PREVIEW],
        input_tokens=heard.input_tokens,
        output_tokens=heard.output_tokens,
        truncated=heard.truncated,
        reasoning_tokens=heard.reasoning_tokens,
        prompt_chars=len(prompt.text),
        expected_tokens=int(str(total)) - (sample.max_new_tokens or 0) if exact else 0,
        error=error,
        too_long=any(one.too_long for one in (heard, *others)),
        figures={name: value for name, value in figures.items() if name != "score"},
    )


def without_reasoning(text: str, truncated: bool = False) -> tuple[str, str]:
    """A text's answer and the reasoning before it, where a model writes both into one text.

    A reasoning that the token limit cut off leaves no answer.
    """
    reasoning, mark, answer = text.rpartition(THINKING_ENDS)
    if mark:
        return answer.strip("\n"), reasoning.replace(THINKING_STARTS, "").strip()
    if text.lstrip().startswith(THINKING_STARTS) and truncated:
        return "", text.lstrip().removeprefix(THINKING_STARTS).strip()
    return text, ""


def in_blocks(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """The indices in runs of at most `size`."""
    rest = iter(indices)
    while block := list(islice(rest, size)):
        yield block
