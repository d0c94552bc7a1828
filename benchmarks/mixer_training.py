"""What the benchmarks of mixers share: models of equal size, the same tokens for all of them, and the record's head.

Tasks are bare tokens. `recall`: pairs of a key and a value, then keys again whose values are asked for. `copy`: a span,
filler, and the span again. Where text is trained on as well, it is the standard library's sources. Every batch is a
function of its step and seed, so all models see the same.
"""

from __future__ import annotations

import datetime
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from farspan.models import MixerConfig, MixerForCausalLM, load
from farspan.training.data.documents import step_seed
from farspan.training.data.text import TextFiles
from farspan.training.trainer import build_optimizer, trapezoid

IGNORED = -100
TASKS = ("recall", "copy")


@dataclass(frozen=True)
class Sizes:
    """Of models and batches."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 512
    length: int = 256
    rows: int = 16

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch."""
        return self.rows * self.length


def build(mixers: list[str], sizes: Sizes, parameters: int | None, seed: int) -> MixerForCausalLM:
    """A model of these mixers, with the width of its channel mixing chosen to come nearest to `parameters`."""

    def made(width: int) -> MixerForCausalLM:
        torch.manual_seed(seed)
        return MixerForCausalLM(
            MixerConfig(
                vocab_size=sizes.vocabulary,
                hidden_size=sizes.hidden,
                intermediate_size=width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                num_key_value_heads=sizes.heads,
                max_position_embeddings=sizes.length,
                mixers=mixers,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    width = 3 * sizes.hidden
    model = made(width)
    if parameters is not None:
        a_channel = 3 * sizes.hidden * sizes.layers
        width = max(8, width + round((parameters - model.num_parameters()) / a_channel))
        model = made(width)
    with torch.no_grad():
        # with tied embeddings, about this spread lets a copied token stand out from the first step on
        torch.nn.init.normal_(model.get_input_embeddings().weight, 0.0, sizes.hidden**-0.5)
    return model


def recall_rows(rng: random.Random, rows: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and labels [rows, length]; labels are values that the row holds already.

    Rows differ in how many pairs they hold: few pairs teach what many then need.
    """
    ids, labels = [], []
    keys_of, values_of = range(vocabulary // 2), range(vocabulary // 2, vocabulary)
    for _ in range(rows):
        pairs = rng.randint(2, max(2, min(length // 4, len(keys_of))))
        keys, values = rng.sample(keys_of, pairs), rng.choices(values_of, k=pairs)
        row = [token for pair in zip(keys, values, strict=True) for token in pair]
        known = len(row)
        while len(row) < length:
            asked = rng.randrange(pairs)
            row += [keys[asked], values[asked]]
        row = row[:length]
        ids.append(row)
        labels.append([token if i >= known and i % 2 else IGNORED for i, token in enumerate(row)])
    return torch.tensor(ids), torch.tensor(labels)


def copy_rows(rng: random.Random, rows: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and labels [rows, length]; labels are the second half of the span's second time."""
    ids, labels = [], []
    for _ in range(rows):
        size = length // 4
        span = rng.sample(range(vocabulary), min(size, vocabulary))
        row = [*span, *rng.choices(range(vocabulary), k=length - 2 * len(span)), *span]
        ids.append(row)
        labels.append([IGNORED] * (length - len(span) // 2) + span[len(span) - len(span) // 2 :])
    return torch.tensor(ids), torch.tensor(labels)


ROWS: dict[str, Callable[[random.Random, int, int, int], tuple[Tensor, Tensor]]] = {
    "recall": recall_rows,
    "copy": copy_rows,
}


class TextRows:
    """Rows of text; all tokens are predicted. Its tokenizer is that of the bundled model.

    Parameters
    ----------
    files : number of files to read at most; all where absent
    """

    def __init__(self, split: str, files: int | None = None) -> None:
        _, tokenizer = load("reference")
        self.vocabulary = len(tokenizer)
        self._files = TextFiles(tokenizer, split=split)  # type: ignore[arg-type]
        self._files.files = self._files.files[:files]

    def __call__(self, rng: random.Random, rows: int, length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        found: list[list[int]] = []
        while len(found) < rows:
            document = self._files.document(rng, length)
            if len(document.ids) == length:
                found.append(list(document.ids))
        ids = torch.tensor(found)
        return ids, ids


def cut_context(ids: Tensor, labels: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Rows cut into pieces of `context` tokens: what a model with that window can see."""
    return ids.reshape(-1, context), labels.reshape(-1, context)


def train(
    model: MixerForCausalLM,
    batches: Callable[[int], list[tuple[Tensor, Tensor]]],
    steps: int,
    *,
    learning_rate: float = 3e-3,
    muon_learning_rate: float = 5e-3,
    deadline: float | None = None,
) -> tuple[list[float], float]:
    """Train on `batches(step)`, each the mean of its parts' losses; losses by step, and seconds a step."""
    optimizer = build_optimizer(
        model, "muon", learning_rate=learning_rate, muon_learning_rate=muon_learning_rate, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: trapezoid(s, max(1, steps // 20), steps, 0.5))
    model.train()
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(steps):
        if deadline is not None and time.monotonic() >= deadline:
            break
        loss = torch.stack([loss_of(model, ids, labels)[0] for ids, labels in batches(step)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses, (time.perf_counter() - started) / max(1, len(losses))


def loss_of(model: MixerForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean loss over labels, number of labels predicted right, number of labels."""
    states = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    asked = wanted != IGNORED
    logits = model.lm_head(states[asked]).float()
    right = (logits.argmax(-1) == wanted[asked]).sum()
    return F.cross_entropy(logits, wanted[asked]), right, int(asked.sum())


@torch.no_grad()
def score(model: MixerForCausalLM, rows: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Accuracy and loss over held-out rows."""
    right = asked = 0
    total = 0.0
    for ids, labels in rows:
        loss, hits, count = loss_of(model, ids, labels)
        right, asked, total = right + int(hits), asked + count, total + float(loss) * count
    return {"accuracy": round(right / asked, 4), "loss": round(total / asked, 4), "labels": asked}


def made_rows(
    maker: Callable[[random.Random, int, int, int], tuple[Tensor, Tensor]], sizes: Sizes, *seed: object, rows: int
) -> tuple[Tensor, Tensor]:
    """Rows that follow from the seed."""
    return maker(random.Random(step_seed(*seed)), rows, sizes.length, sizes.vocabulary)


def head(benchmark: str, threads: int) -> dict[str, object]:
    """What every record begins with."""
    capability = torch.backends.cpu.get_cpu_capability()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "benchmark": benchmark,
        "machine": {
            "processor": f"{platform.processor() or platform.machine()}, {capability}",
            "gpu": gpu,
            "cores": os.cpu_count(),
            "threads": threads,
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
