"""How far back a model still finds things: retrieval by length and by distance, for any model that can fill in tokens.

A model can keep its perplexity beyond the trained window and still see only the nearest part of its context, like
through a sliding window. The map shows it; its one figure is the farthest distance at which retrieval works. Every
model is told how many tokens the answer has, so autoregressive and masked-diffusion models do the same work.

Source: arXiv 2506.14429, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerBase

from farspan.engine import Denoiser, DiffusionConfig, Engine, ModelDenoiser, Request, generate_masked_diffusion
from farspan.engine.forward import left_padded
from farspan.errors import FarspanError
from farspan.evals.generate.count import TokenCounter
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import family_class

Fill = Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]
"""From prompts, as token ids, and numbers of tokens to as many tokens behind each prompt."""

BATCH_TOKENS = 16_384


class Perception(BaseModel):
    """Retrieval by length and depth.

    lengths, depths : tokens, and percent of the context before the needle
    n : samples a cell
    accuracy : [lengths][depths], share of samples whose tokens are all right
    distances : [lengths][depths], mean number of tokens between the needle's start and the answer
    """

    model_config = ConfigDict(frozen=True)

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    n: int
    accuracy: tuple[tuple[float, ...], ...]
    distances: tuple[tuple[float, ...], ...]

    def window(self, threshold: float = 0.5) -> float:
        """The largest distance at which accuracy reaches the threshold, in tokens; 0 if it never does."""
        cells = zip(self.accuracy, self.distances, strict=True)
        reached = [far for row, fars in cells for found, far in zip(row, fars, strict=True) if found >= threshold]
        return max(reached, default=0.0)


def local_perception(
    fill: Fill,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    depths: Sequence[float] = (0, 25, 50, 75, 100),
    *,
    family: str = "lines",
    task: str = "single",
    n: int = 8,
    seed: int = 0,
) -> Perception:
    """Measure the map.

    Parameters
    ----------
    fill : the model, see `fill_by_engine` and `fill_by_denoiser`; levers, if any, are on already
    lengths : total tokens of a sample, question and answer included
    depths : percent
    family, task : a generated task with one needle
    n : samples a cell

    Raises
    ------
    FarspanError : no length, depth or sample is asked for, or the task's samples do not say where their needle lies.
    """
    if not lengths or not depths or n < 1:
        raise FarspanError("local perception needs at least one length, one depth and one sample a cell")
    source = family_class(family)(TokenCounter(tokenizer))
    accuracy, distances = [], []
    for length in lengths:
        right, far = [], []
        for depth in depths:
            samples = [source.sample(task, length, index, seed, depth=depth) for index in range(n)]
            prompts = _ids(tokenizer, [sample.text + sample.question + sample.answer_prefix for sample in samples])
            answers = _ids(tokenizer, [sample.answers[0] for sample in samples])
            filled = fill(prompts, [len(answer) for answer in answers])
            right.append(sum(map(_same, filled, answers)) / n)
            far.append(sum(len(prompt) - _place(sample) for prompt, sample in zip(prompts, samples, strict=True)) / n)
        accuracy.append(tuple(right))
        distances.append(tuple(far))
    return Perception(
        lengths=tuple(lengths),
        depths=tuple(depths),
        n=n,
        accuracy=tuple(accuracy),
        distances=tuple(distances),
    )


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return found


def _same(filled: Sequence[int], answer: Sequence[int]) -> bool:
    return list(filled) == list(answer)


def _place(sample: LongSample) -> int:
    spans = [span for span in sample.evidence_spans if span.role == "needle"]
    if len(spans) != 1 or spans[0].start_token is None:
        raise FarspanError(f"samples of {sample.benchmark}/{sample.task} have no single needle whose place is known")
    return spans[0].start_token


def fill_by_engine(engine: Engine) -> Fill:
    """Greedy continuation by an autoregressive model; what it ends early counts as wrong."""

    def fill(prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
        requests = [Request(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
        return [result.ids for result in engine.generate_batch(requests)]

    return fill


def fill_by_denoiser(denoiser: Denoiser, *, cache_prefix: bool = False, batch_tokens: int = BATCH_TOKENS) -> Fill:
    """One block of masks behind each prompt, filled in one token a step.

    Parameters
    ----------
    denoiser : the model
    cache_prefix : see `DiffusionConfig`
    batch_tokens : rows times longest row of a batch, at most, unless one row alone is longer
    """
    device = denoiser.device if isinstance(denoiser, ModelDenoiser) else torch.device("cpu")

    def fill(prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
        filled: list[list[int]] = [[] for _ in prompts]
        for length in sorted(set(lengths)):
            members = [index for index, wanted in enumerate(lengths) if wanted == length]
            rows = max(1, batch_tokens // (max(len(prompts[index]) for index in members) + length))
            config = DiffusionConfig(length, length, length, early_stop=False, cache_prefix=cache_prefix)
            for first in range(0, len(members), rows):
                batch = members[first : first + rows]
                ids, mask, _ = left_padded([prompts[index] for index in batch], device)
                answers = generate_masked_diffusion(denoiser, ids, config, mask)[:, ids.shape[1] :].tolist()
                for index, answer in zip(batch, answers, strict=True):
                    filled[index] = answer
        return filled

    return fill
