"""How likely a text is to a masked-diffusion model, by masking random parts of it, and perplexity along a long text.

The same curve is computed for an autoregressive model, so that the two kinds stand side by side. A curve that stays
flat beyond the trained window says that the model is not confused, not that it reads what lies there.

Source: arXiv 2502.09992, appendix B.5; arXiv 2506.14429 (chunks and running means).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from farspan.engine.denoiser import Denoiser, ModelDenoiser
from farspan.engine.forward import Forward
from farspan.engine.request import RequestError
from farspan.engine.scoring import Scorer

Weighting = Literal["none", "elbo"]
SCORED_BATCH = 65_536


class CurvePoint(NamedTuple):
    """Perplexity at a place of a text.

    position : tokens read by then
    chunk : perplexity of the chunk that ends here
    running : geometric mean of the chunks so far
    """

    position: int
    chunk: float
    running: float


def likelihood_mask_counts(k: int, batch: int, target_len: int) -> list[int]:
    """Masked tokens of every row of a draw: spread evenly over 1 to `target_len`, beginning at k and wrapping around.

    Parameters
    ----------
    k : of the first row, 1 to `target_len`
    batch : rows
    target_len : tokens of the answer
    """
    if not 1 <= k <= target_len or batch < 1:
        raise RequestError(f"k must lie within 1 to {target_len} and batch be at least 1; given {k} and {batch}")
    last = k + (batch - 1) * (target_len / batch)
    counts = torch.linspace(float(k), last, steps=batch).round().long()
    return [int(count) for count in (counts - 1) % target_len + 1]


@torch.no_grad()
def diffusion_perplexity(
    denoiser: Denoiser,
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    mc_num: int = 8,
    batch_size: int = 1,
    weighting: Weighting = "none",
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Monte-Carlo estimate of an answer's perplexity.

    Parameters
    ----------
    prompt, answer : token ids; the prompt is always visible
    mc_num : random maskings, rounded up to whole batches
    batch_size : maskings of one forward, whose numbers of masks are spread evenly
    weighting : `none` is the mean over all masked tokens of a forward, as the published curves are; `elbo` weighs every
        masking the same, so that the mean bounds the negative log-likelihood a token from above. They differ only
        where one forward holds several maskings
    generator : on the CPU; a fresh one with seed 0 where left out

    Raises
    ------
    RequestError : no answer, or a number below 1.
    """
    if len(answer) == 0 or mc_num < 1 or batch_size < 1:
        raise RequestError("perplexity needs an answer of at least one token, and mc_num and batch_size of at least 1")
    if weighting not in ("none", "elbo"):
        raise RequestError(f"weighting is '{weighting}'; use none or elbo")
    generator = generator or torch.Generator().manual_seed(0)
    start, length = len(prompt), len(prompt) + len(answer)
    ids = torch.tensor([*prompt, *answer], device=device).expand(batch_size, -1)
    losses = []
    for _ in range(-(-mc_num // batch_size)):
        k = int(torch.randint(1, len(answer) + 1, (), generator=generator))
        counts = torch.tensor(likelihood_mask_counts(k, batch_size, len(answer)))
        ranks = torch.rand((batch_size, len(answer)), generator=generator).argsort(dim=1)
        masked = (ranks < counts[:, None]).to(ids.device)
        noised = ids.clone()
        noised[:, start:] = noised[:, start:].masked_fill(masked, denoiser.mask_token_id)
        logits = _without(denoiser(noised, None, start, length), denoiser.mask_token_id)
        losses.append(_mean_loss(logits[masked], ids[:, start:][masked], counts, weighting))
    return math.exp(sum(losses) / len(losses))


def _without(logits: Tensor, mask_token_id: int) -> Tensor:
    """Logits in which the mask cannot be predicted."""
    if mask_token_id < logits.shape[-1]:
        logits = logits.index_fill(-1, torch.tensor(mask_token_id, device=logits.device), -torch.inf)
    return logits


def _mean_loss(logits: Tensor, targets: Tensor, counts: Tensor, weighting: Weighting) -> float:
    """Mean cross-entropy of one forward; logits [masked tokens of all rows, vocabulary]."""
    each = functional.cross_entropy(logits.float(), targets, reduction="none")
    if weighting == "none":
        return float(each.mean())
    rows = torch.split(each, counts.tolist())
    return float(torch.stack([row.mean() for row in rows]).mean())


def cumulative_perplexity(chunk_ppl: Sequence[float]) -> list[float]:
    """Geometric mean of the first 1, 2, ... values."""
    sums = accumulate(math.log(value) for value in chunk_ppl)
    return [math.exp(total / number) for number, total in enumerate(sums, start=1)]


def perplexity_curve(
    model: PreTrainedModel | Denoiser,
    ids: Sequence[int],
    chunk: int = 64,
    *,
    mc_num: int = 8,
    batch_size: int = 1,
    weighting: Weighting = "none",
    seed: int = 0,
) -> list[CurvePoint]:
    """Perplexity chunk by chunk along a text, each given all that stands before it.

    Parameters
    ----------
    model : an autoregressive model, a masked-diffusion model or a denoiser; levers, if any, are on already
    ids : token ids; what is left over behind the last whole chunk is not read
    chunk : tokens of a chunk
    mc_num, batch_size, weighting, seed : see `diffusion_perplexity`

    Returns
    -------
    One point a chunk. A masked-diffusion model is asked for the second chunk first, an autoregressive one for all
    chunks, of which the first lacks its first token.

    Raises
    ------
    RequestError : the text is shorter than two chunks, or `chunk` below 2.
    """
    if chunk < 2 or len(ids) < 2 * chunk:
        raise RequestError(f"a curve needs at least two chunks of two tokens; given {len(ids)} tokens, chunk {chunk}")
    ends = range(chunk, len(ids) - len(ids) % chunk + 1, chunk)
    if isinstance(model, PreTrainedModel) and getattr(model.config, "is_causal", True) is not False:
        scores = Scorer(Forward(model)).score([list(ids[: ends[-1]])], SCORED_BATCH)[0]
        parts = [scores[max(0, end - chunk - 1) : end - 1] for end in ends]
        chunks = [math.exp(-sum(part) / len(part)) for part in parts]
        running = [math.exp(-sum(scores[: end - 1]) / (end - 1)) for end in ends]
        return [CurvePoint(*point) for point in zip(ends, chunks, running, strict=True)]
    denoiser = ModelDenoiser(model) if isinstance(model, PreTrainedModel) else model
    device = denoiser.device if isinstance(denoiser, ModelDenoiser) else "cpu"
    generator = torch.Generator().manual_seed(seed)
    chunks = [
        diffusion_perplexity(
            denoiser,
            ids[: end - chunk],
            ids[end - chunk : end],
            mc_num=mc_num,
            batch_size=batch_size,
            weighting=weighting,
            generator=generator,
            device=device,
        )
        for end in ends[1:]
    ]
    points = zip(ends[1:], chunks, cumulative_perplexity(chunks), strict=True)
    return [CurvePoint(*point) for point in points]
