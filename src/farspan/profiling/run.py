"""Measuring a profile: memory first, then timing in rounds over all lengths.

Memory is measured in a pass of its own, since watching allocations takes time; that pass is also what warms a length
up. Timing goes round the lengths `repeats` times, so that a machine that slows down for a while slows all of them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from farspan.engine.forward import Forward, evaluating
from farspan.errors import FarspanError
from farspan.profiling.layers import text_ids
from farspan.profiling.memory import measure_memory
from farspan.profiling.profile import MemorySplit, Profile, ProfileError, ProfilePoint, Spread, Status
from farspan.profiling.timing import token_times


def run_profile(
    model: PreTrainedModel,
    lengths: Sequence[int],
    new_tokens: int = 16,
    batch_size: int = 1,
    repeats: int = 5,
    warmup: int = 1,
    memory: bool = True,
    logits: Literal["last", "all"] = "last",
    seed: int = 0,
    *,
    text: Sequence[int] = (),
    name: str = "",
    recipe: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Measure what a model costs, with the levers that are on.

    A length that exhausts the memory is marked and the others go on. Prompts are random tokens, since repeated ones
    flatter mixtures of experts and caches.
    Source: arXiv 2507.12442, section 3, with time and memory measured apart.

    Parameters
    ----------
    lengths : prompt tokens a row
    new_tokens : tokens to generate after each prompt, at least 2
    batch_size : rows
    repeats : timed generations a length
    warmup : generations a length before anything is timed; on a CPU the memory pass is one of them
    memory : whether to measure memory
    logits : whether the prompt's `last` position alone goes through the head, as generation needs it, or `all`
    seed : of the prompts
    text : token ids to read in place of random ones, for levers whose cost follows what is read; repeated where it is
        too short
    name, recipe : what to call the model and the levers that are on
    progress : called with passes done and passes in all

    Raises
    ------
    ProfileError : no length, or a number out of range.
    UnsupportedModel : the model takes no cache, or is no decoder with a language model head.
    """
    lengths = sorted(set(lengths))
    _check(lengths, new_tokens, batch_size, repeats, warmup)
    forward = Forward(model)
    keep = 1 if logits == "last" else 0
    measured = {length: _Measured() for length in lengths}
    prompts = {length: _prompt(model, batch_size, length, seed, text).to(forward.device) for length in lengths}
    # On a CPU the memory pass warms a length up; a GPU's allocator must be warm before its peak means anything.
    warm_passes = max(0, warmup - int(memory and forward.device.type != "cuda"))
    total = len(lengths) * (warm_passes + int(memory) + repeats)
    counter = iter(range(1, total + 1))

    def attempt(length: int, run: Callable[[], None]) -> None:
        if measured[length].status == "ok":
            measured[length].status, measured[length].note = _attempt(run)
        if progress is not None:
            progress(next(counter), total)

    def time_once(length: int, record: bool) -> None:
        moments = token_times(forward, prompts[length], new_tokens, keep=keep)
        if record:
            measured[length].moments.append(moments)

    def weigh(length: int) -> None:
        measured[length].memory = measure_memory(forward, prompts[length], keep=keep)

    with torch.no_grad(), evaluating(model):
        for length in lengths:
            for _ in range(warm_passes):
                attempt(length, partial(time_once, length, record=False))
            if memory:
                attempt(length, partial(weigh, length))
        for _ in range(repeats):
            for length in lengths:
                attempt(length, partial(time_once, length, record=True))
    return Profile(
        model=name or model.config.name_or_path or type(model).__name__,
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        dtype=str(model.dtype).removeprefix("torch."),
        device=_device_name(forward.device),
        attention=str(model.config._attn_implementation),
        recipe=recipe,
        new_tokens=new_tokens,
        repeats=repeats,
        warmup=warmup,
        logits=logits,
        seed=seed,
        threads=torch.get_num_threads(),
        versions={
            "farspan": version("farspan"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        points=tuple(measured[length].point(length, batch_size, new_tokens) for length in lengths),
    )


class _Measured:
    """What is known of one length so far."""

    def __init__(self) -> None:
        self.status: Status = "ok"
        self.note = ""
        self.memory: MemorySplit | None = None
        self.moments: list[list[float]] = []

    def point(self, length: int, batch: int, new_tokens: int) -> ProfilePoint:
        if not self.moments or self.status != "ok":
            return ProfilePoint(length=length, batch=batch, status=self.status, memory=self.memory, note=self.note)
        gaps = np.diff(np.asarray(self.moments), axis=1)
        tpot = Spread.of(gaps.mean(axis=1).tolist())
        whole = float(np.median([moments[-1] for moments in self.moments]))
        return ProfilePoint(
            length=length,
            batch=batch,
            ttft=Spread.of([moments[0] for moments in self.moments]),
            tpot=tpot,
            itl_s=tuple(np.median(gaps, axis=0).tolist()),
            throughput=batch * (length + new_tokens) / whole,
            decode_throughput=batch / tpot.median,
            memory=self.memory,
        )


def _check(lengths: Sequence[int], new_tokens: int, batch_size: int, repeats: int, warmup: int) -> None:
    if not lengths or lengths[0] < 1:
        raise ProfileError(f"a profile needs lengths of at least one token, not {list(lengths)}")
    for label, value, least in (
        ("new_tokens", new_tokens, 2),
        ("batch_size", batch_size, 1),
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise ProfileError(f"{label} is {value}; it must be at least {least}")


def _attempt(run: Callable[[], None]) -> tuple[Status, str]:
    try:
        run()
    except (torch.OutOfMemoryError, MemoryError) as error:
        return "oom", _line(error)
    except (IndexError, FarspanError) as error:
        return "unsupported", _line(error)
    except RuntimeError as error:
        # The allocator of a CPU has no error class of its own.
        if "not enough memory" not in str(error):
            raise
        return "oom", _line(error)
    return "ok", ""


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _prompt(model: PreTrainedModel, rows: int, length: int, seed: int, text: Sequence[int]) -> Tensor:
    """The text, or random ids of the vocabulary without its special tokens: [rows, length]."""
    if text:
        return text_ids(text, length).repeat(rows, 1)
    config = model.config.get_text_config(decoder=True)
    special: set[int] = set()
    for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, field, None)
        special.update(value if isinstance(value, list) else [] if value is None else [value])
    ordinary = torch.tensor([token for token in range(config.vocab_size) if token not in special])
    generator = torch.Generator().manual_seed(seed)
    return ordinary[torch.randint(len(ordinary), (rows, length), generator=generator)]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or device.type
