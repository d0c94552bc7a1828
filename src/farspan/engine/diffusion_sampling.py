"""Text out of a masked-diffusion model: block by block, in each block the surest tokens first.

An answer starts as a row of masks. A block of it is filled in over several steps; a token once set never changes, and
a block begins when all before it are done. The plain loop reads the whole sequence at every step and is the reference;
with `cache_prefix` what stands before a block is read once a block.

Source: arXiv 2502.09992, section 2.4; arXiv 2506.14429 (its settings).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from farspan.engine.denoiser import Denoiser, ModelDenoiser
from farspan.engine.request import RequestError

Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class DiffusionConfig:
    """How an answer is filled in.

    steps : forwards for the whole answer, at most one a token and at least one a block
    gen_length : tokens of the answer, rounded up to whole blocks
    block_length : tokens of a block
    temperature : 0 takes the likeliest token of each place; above, Gumbel noise is added
    cfg_scale : above 0, logits move away from those of a prompt that is masked entirely
    remasking : `low_confidence` keeps the surest tokens of a step, `random` any
    confidence_threshold : every token at least so probable is kept, and one at the least, in place of a fixed number a
        step; `steps` then counts for nothing
    early_stop : blocks behind one that holds the end token are filled with it unread
    seed : of the noise; row r of a batch uses seed + r; None draws one
    cache_prefix : keep keys and values of what stands before a block while it is filled in; approximate, since what
        stands before would see the tokens that are filled in
    """

    steps: int = 128
    gen_length: int = 128
    block_length: int = 32
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    confidence_threshold: float | None = None
    early_stop: bool = True
    seed: int | None = None
    cache_prefix: bool = False

    def __post_init__(self) -> None:
        threshold = self.confidence_threshold
        for wrong, line in (
            (self.gen_length < 1, f"gen_length is {self.gen_length}; it must be at least 1"),
            (self.block_length < 1, f"block_length is {self.block_length}; it must be at least 1"),
            (self.steps < 1, f"steps is {self.steps}; it must be at least 1"),
            (self.temperature < 0, f"temperature is {self.temperature}; it must be 0 or more"),
            (self.cfg_scale < 0, f"cfg_scale is {self.cfg_scale}; it must be 0 or more"),
            (
                self.remasking not in ("low_confidence", "random"),
                f"remasking is '{self.remasking}'; use low_confidence or random",
            ),
            (
                threshold is not None and not 0 < threshold <= 1,
                f"confidence_threshold is {threshold}; it must be above 0 and at most 1",
            ),
        ):
            if wrong:
                raise RequestError(line)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.gen_length // self.block_length)

    def block_steps(self) -> list[int]:
        """Steps of each block: all of them shared out evenly, the first blocks taking what is left over."""
        steps = min(self.steps, self.blocks * self.block_length)
        if steps < self.blocks:
            logging.getLogger(__name__).warning("steps raised from %d to %d, one a block", steps, self.blocks)
            steps = self.blocks
        each, over = divmod(steps, self.blocks)
        return [each + (block < over) for block in range(self.blocks)]


def num_transfer_tokens(mask_counts: Tensor, steps: int) -> Tensor:
    """How many tokens each step fills in: all equally many, the first steps one more where it does not divide.

    Parameters
    ----------
    mask_counts : [rows], masked tokens of each row
    steps : at least 1

    Returns
    -------
    [rows, steps], integers that sum to `mask_counts`
    """
    if steps < 1:
        raise RequestError(f"steps is {steps}; it must be at least 1")
    each = torch.arange(steps, device=mask_counts.device)[None, :]
    return mask_counts[:, None] // steps + (each < mask_counts[:, None] % steps).to(mask_counts.dtype)


@torch.no_grad()
def generate_masked_diffusion(
    denoiser: Denoiser,
    prompt_ids: Tensor,
    config: DiffusionConfig | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Continue prompts.

    Parameters
    ----------
    denoiser : the model
    prompt_ids : [rows, prompt], padded on the left where prompts differ in length
    config : defaults where left out
    attention_mask : [rows, prompt], 0 on padding

    Returns
    -------
    [rows, prompt + answer]: the prompt unchanged, then `gen_length` tokens rounded up to whole blocks

    Raises
    ------
    RequestError : `cache_prefix` with a denoiser that keeps no cache.
    """
    config = config or DiffusionConfig()
    if config.cache_prefix and not isinstance(denoiser, ModelDenoiser):
        raise RequestError("cache_prefix needs a ModelDenoiser; this denoiser keeps no keys and values")
    rows, prompt = prompt_ids.shape
    answer = (rows, config.blocks * config.block_length)
    tokens = torch.cat([prompt_ids, prompt_ids.new_full(answer, denoiser.mask_token_id)], dim=1)
    visible = None
    if attention_mask is not None and not bool(attention_mask.all()):
        visible = torch.cat([attention_mask, attention_mask.new_ones(answer)], dim=1)
    chooser = _Chooser(config, rows, denoiser.mask_token_id, prompt_ids.device)
    live = torch.arange(rows, device=prompt_ids.device)
    for block, steps in enumerate(config.block_steps()):
        start = prompt + block * config.block_length
        end = start + config.block_length
        seen = None if visible is None else visible[live]
        read = _reader(denoiser, config, seen, prompt, start, end)
        tokens[live] = _fill(tokens[live], read, chooser, steps, start, end)
        if config.early_stop and denoiser.eos_token_id is not None:
            ended = (tokens[live, start:end] == denoiser.eos_token_id).any(dim=1)
            tokens[live[ended], end:] = denoiser.eos_token_id
            chooser.keep_rows((~ended).nonzero()[:, 0].tolist())
            live = live[~ended]
            if not len(live):
                break
    return tokens


def _fill(tokens: Tensor, read: Read, chooser: _Chooser, steps: int, start: int, end: int) -> Tensor:
    """The tokens with one block filled in."""
    block = tokens[:, start:end]
    masked = block == chooser.mask_token_id
    schedule = num_transfer_tokens(masked.sum(dim=1), steps)
    step = 0
    while bool(masked.any()):
        chosen, confidence = chooser.choose(read(tokens))
        confidence = confidence.masked_fill(~masked, -torch.inf)
        if chooser.config.confidence_threshold is None:
            counts = schedule[:, step]
        else:
            sure = (confidence >= chooser.config.confidence_threshold).sum(dim=1)
            counts = torch.maximum(sure, masked.any(dim=1).long())
        order = confidence.topk(end - start, dim=1).indices
        taken = torch.arange(end - start, device=tokens.device)[None, :] < counts[:, None]
        take = torch.zeros_like(masked).scatter(1, order, taken)
        block = torch.where(take, chosen, block)
        tokens = torch.cat([tokens[:, :start], block, tokens[:, end:]], dim=1)
        masked = masked & ~take
        step += 1
    return tokens


def _reader(
    denoiser: Denoiser, config: DiffusionConfig, visible: Tensor | None, prompt: int, start: int, end: int
) -> Read:
    """Logits of the block for the present tokens; guidance and cache are dealt with here."""
    guided = config.cfg_scale > 0
    if guided and visible is not None:
        visible = torch.cat([visible, visible])
    prefix = None

    def read(tokens: Tensor) -> Tensor:
        nonlocal prefix
        if guided:
            blind = tokens.clone()
            blind[:, :prompt] = denoiser.mask_token_id
            tokens = torch.cat([tokens, blind])
        if not config.cache_prefix or not isinstance(denoiser, ModelDenoiser):
            logits = denoiser(tokens, visible, start, end)
        elif prefix is None:
            logits, prefix = denoiser.remember(tokens, visible, start, end)
        else:
            logits = denoiser.after(prefix, tokens, visible, start, end)
        if guided:
            given, unguided = logits.chunk(2)
            logits = unguided + (config.cfg_scale + 1) * (given - unguided)
        return logits

    return read


class _Chooser:
    """A token and a confidence for every place of a block; every row has its own noise."""

    def __init__(self, config: DiffusionConfig, rows: int, mask_token_id: int, device: torch.device) -> None:
        self.config = config
        self.mask_token_id = mask_token_id
        self._generators: list[torch.Generator] = []
        if config.temperature > 0 or config.remasking == "random":
            seed = secrets.randbits(62) if config.seed is None else config.seed
            self._generators = [torch.Generator(device).manual_seed((seed + row) % 2**63) for row in range(rows)]

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and confidences [rows, places] for logits [rows, places, vocabulary]; the mask is never a token."""
        if self.mask_token_id < logits.shape[-1]:
            logits = logits.index_fill(-1, torch.tensor(self.mask_token_id, device=logits.device), -torch.inf)
        # Gumbel noise in low precision visibly hurts the text, so noise and confidence are float64.
        logits = logits.double()
        noisy = logits
        if self.config.temperature > 0:
            noisy = logits - self.config.temperature * torch.log(-torch.log(self._uniform(logits.shape[1:])))
        chosen = noisy.argmax(dim=-1)
        if self.config.remasking == "random":
            return chosen, self._uniform(logits.shape[1:-1])
        return chosen, logits.softmax(dim=-1).gather(-1, chosen[..., None])[..., 0]

    def keep_rows(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        if self._generators:
            self._generators = [self._generators[row] for row in rows]

    def _uniform(self, shape: torch.Size) -> Tensor:
        """A fresh number in (0, 1) for every entry, [rows, *shape]."""
        drawn = [
            torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
            for generator in self._generators
        ]
        return torch.stack(drawn).clamp(min=torch.finfo(torch.float64).tiny)
