"""One run of an evaluation from what was asked for to its result, whether the model is here or behind an address.

A session is plain settings; started, it holds the model or the address and can say what the run will cost before it
runs. Nothing here reads arguments or writes files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError
from farspan.evals.asking import Cell, cells_of
from farspan.evals.core import resolve
from farspan.evals.endpoint import EndpointSettings
from farspan.evals.evaluation import Evaluation
from farspan.evals.forecast import Forecast, Shape, forecast
from farspan.evals.generate.count import TokenCounter
from farspan.evals.journal import Journal
from farspan.evals.prompt import PrefixMode

Progress = Callable[[int, int], None]
PROBE_TOKENS = 256


class Started(Protocol):
    """A run that is ready to go."""

    def forecast(self, price: tuple[float, float] | None) -> Forecast | None:
        """What it will take; None where nothing is asked."""

    def evaluate(self, journal: Journal | None, progress: Progress) -> Evaluation:
        """Run it."""


class Session(BaseModel):
    """What is asked of which model; fields as for `evaluate` and `evaluate_endpoint`.

    prefix_mode : None takes what suits the model
    endpoint : an address; None loads `model` here
    """

    model_config = ConfigDict(frozen=True)

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    n: int
    seed: int
    threshold: float
    knobs: Mapping[str, object] = {}
    limit: int | None = None
    adaptive: bool = False
    token_budget: int | None = None
    prefix_mode: PrefixMode | None = None
    thinking_tokens: int = 0
    model: str = "reference"
    recipe: str = ""
    endpoint: EndpointSettings | None = None
    tokenizer: str = ""
    trust_remote_code: bool = False

    @property
    def cells(self) -> list[Cell]:
        """Which questions are asked."""
        probes, _ = resolve(self.tasks, self.knobs)
        return cells_of(probes, self.lengths, self.n, self.limit) if probes else []

    def check(self) -> None:
        """Refuse what cannot be run, before any model is loaded.

        Raises
        ------
        FarspanError
        """
        if self.adaptive and (self.limit is not None or len(self.lengths) < 2):
            raise FarspanError("an adaptive search needs two lengths or more, and a token budget in place of a limit")
        if self.endpoint is None:
            _ = self.cells
            return
        if self.recipe:
            raise FarspanError("a recipe needs a local model; an address serves what it serves")
        if not self.cells:
            raise FarspanError("there is no task to ask; the loss of text can be measured on local models alone")

    def identity(self) -> dict[str, object]:
        """What decides which questions are asked and how; a journal of other settings is another run's."""
        probes, _ = resolve(self.tasks, self.knobs)
        where = self.endpoint
        return {
            "probes": {probe.name: [dict(probe.knobs), probe.questions_per_context] for probe in probes},
            "model": self.model,
            "recipe": self.recipe,
            "seed": self.seed,
            "prefix_mode": self.prefix_mode,
            "thinking_tokens": self.thinking_tokens,
            "tokenizer": self.tokenizer,
            "endpoint": None if where is None else [where.url, where.api, where.continues],
        }

    @contextmanager
    def started(self) -> Iterator[Started]:
        """The model loaded with its levers on, or the address known."""
        if self.endpoint is not None:
            yield _Remote(self, self.endpoint)
            return
        from farspan.models import load
        from farspan.recipe import Recipe

        levers = Recipe.read(self.recipe) if self.recipe else Recipe()
        model, tokenizer = load(self.model, trust_remote_code=self.trust_remote_code)
        with levers(model):
            yield _Local(self, model, tokenizer, str(levers))


class _Remote:
    def __init__(self, session: Session, endpoint: EndpointSettings) -> None:
        self.session, self.endpoint = session, endpoint

    def forecast(self, price: tuple[float, float] | None) -> Forecast | None:
        from farspan.evals.remote import fours

        asked = self.session
        counter = TokenCounter(asked.tokenizer) if asked.tokenizer else TokenCounter(fours, cache=False)
        return forecast(asked.cells, counter, seed=asked.seed, thinking_tokens=asked.thinking_tokens, price=price)

    def evaluate(self, journal: Journal | None, progress: Progress) -> Evaluation:
        from farspan.evals.remote import evaluate_endpoint

        asked = self.session
        return evaluate_endpoint(
            self.endpoint,
            asked.tasks,
            asked.lengths,
            n=asked.n,
            seed=asked.seed,
            threshold=asked.threshold,
            prefix_mode=asked.prefix_mode,
            thinking_tokens=asked.thinking_tokens,
            tokenizer=asked.tokenizer,
            knobs=asked.knobs,
            limit=asked.limit,
            adaptive=asked.adaptive,
            token_budget=asked.token_budget,
            journal=journal,
            progress=progress,
        )


class _Local:
    def __init__(self, session: Session, model: object, tokenizer: object, recipe: str) -> None:
        self.session, self.model, self.tokenizer, self.recipe = session, model, tokenizer, recipe

    def forecast(self, price: tuple[float, float] | None) -> Forecast | None:
        asked = self.session
        if not asked.cells:
            return None
        counter = TokenCounter(self.tokenizer)  # type: ignore[arg-type]
        shape = _shape(self.model)
        return forecast(
            asked.cells, counter, seed=asked.seed, thinking_tokens=asked.thinking_tokens, price=price, shape=shape
        )

    def evaluate(self, journal: Journal | None, progress: Progress) -> Evaluation:
        from farspan.evals.run import evaluate

        asked = self.session
        mode: PrefixMode = asked.prefix_mode or ("none" if asked.thinking_tokens else "continue")
        found = evaluate(
            self.model,  # type: ignore[arg-type]
            self.tokenizer,  # type: ignore[arg-type]
            list(asked.tasks),
            asked.lengths,
            n=asked.n,
            seed=asked.seed,
            threshold=asked.threshold,
            prefix_mode=mode,
            thinking_tokens=asked.thinking_tokens,
            knobs=asked.knobs,
            limit=asked.limit,
            adaptive=asked.adaptive,
            token_budget=asked.token_budget,
            recipe=self.recipe,
            journal=journal,
            progress=progress,
        )
        # The name that was typed, not where the weights turned out to be.
        return found.model_copy(update={"model": asked.model})


def _shape(model: object) -> Shape:
    """The model's arithmetic, with the time of one short prompt."""
    import torch
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    config = model.config.get_text_config()
    ids = torch.ones((1, PROBE_TOKENS), dtype=torch.long, device=model.device)
    with torch.inference_mode():
        model(input_ids=ids)
        started = time.perf_counter()
        model(input_ids=ids).logits[0, -1].max().item()
    return Shape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        layers=int(getattr(config, "num_hidden_layers", 1)),
        width=int(getattr(config, "hidden_size", 1)),
        measured_tokens=PROBE_TOKENS,
        measured_seconds=time.perf_counter() - started,
    )
