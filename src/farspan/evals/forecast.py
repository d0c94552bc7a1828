"""What a run will cost, told before it starts: questions, tokens, and from these time or price.

Prompts are as long as asked, so their tokens are known; of answers only the most they may have is. Time follows from
one measured prompt and the arithmetic of a transformer, price from what the user says a token costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from farspan.evals.asking import Cell, samples_of
from farspan.evals.generate.count import TokenCounter
from farspan.evals.tasks.family import family_class

MILLION = 1_000_000


class Forecast(BaseModel):
    """What a run takes.

    contexts : different texts that are read; a cache of prefixes reads each once
    prompt_tokens : of all prompts
    unique_tokens : of all contexts, each once
    answer_tokens : most that all answers may have, reasoning included
    seconds, price : None where nothing was said to compute them from
    """

    model_config = ConfigDict(frozen=True)

    questions: int
    contexts: int
    prompt_tokens: int
    unique_tokens: int
    answer_tokens: int
    seconds: float | None = None
    price: float | None = None


class Shape(BaseModel):
    """A model's arithmetic, and how fast this machine does it.

    parameters : weights a token passes
    layers, width : of attention
    measured_tokens, measured_seconds : a prompt that was read, and how long it took
    """

    model_config = ConfigDict(frozen=True)

    parameters: int
    layers: int
    width: int
    measured_tokens: int
    measured_seconds: float

    def work(self, tokens: int) -> float:
        """Operations of reading a text: weights grow with its length, attention with its square."""
        return 2.0 * self.parameters * tokens + 2.0 * self.layers * self.width * tokens**2

    def seconds(self, tokens: int) -> float:
        """Time to read a text."""
        return self.measured_seconds * self.work(tokens) / self.work(self.measured_tokens)


def forecast(
    cells: Sequence[Cell],
    counter: TokenCounter,
    *,
    seed: int = 0,
    thinking_tokens: int = 0,
    price: tuple[float, float] | None = None,
    shape: Shape | None = None,
) -> Forecast:
    """What the cells take.

    Parameters
    ----------
    counter : builds one sample a probe, at its shortest length, to know the room of its answers
    price : of a million tokens of prompts and of answers, in any currency
    shape : of a local model; decoding is not counted, only reading
    """
    rooms: dict[str, tuple[int, int]] = {}
    questions = contexts = prompt_tokens = unique_tokens = answer_tokens = 0
    seconds = 0.0
    for cell in cells:
        name = cell.probe.name
        if name not in rooms:
            family = family_class(cell.probe.family)(counter)
            (sample,), _ = samples_of(cell.probe, family, cell.length, [0], seed)
            rooms[name] = (sample.max_new_tokens or 0, 1 + len(family.companions(sample)))
        room, times = rooms[name]
        count = cell.n * times
        texts = -(-cell.n // cell.probe.questions_per_context) * times
        questions += cell.n
        contexts += texts
        prompt_tokens += count * max(cell.length - room, 0)
        unique_tokens += texts * max(cell.length - room, 0)
        answer_tokens += count * (room + thinking_tokens)
        seconds += texts * shape.seconds(cell.length) if shape is not None else 0.0
    return Forecast(
        questions=questions,
        contexts=contexts,
        prompt_tokens=prompt_tokens,
        unique_tokens=unique_tokens,
        answer_tokens=answer_tokens,
        seconds=seconds if shape is not None else None,
        price=None if price is None else (prompt_tokens * price[0] + answer_tokens * price[1]) / MILLION,
    )
