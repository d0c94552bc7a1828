"""Two processes that train together take the very steps of one that sees both their batches."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.training import Document, DocumentStream, Stage
from farspan.training.data import pack_rows
from farspan.training.trainer import BatchList, LongTrainer, build_optimizer, training_arguments

STEPS = 3


def batches():
    """Batches of unequal numbers of supervised tokens."""
    torch.manual_seed(1)
    found = []
    for number in range(2 * STEPS):
        lengths = (5, 11) if number % 2 else (3,)
        row = [(Document(torch.randint(1, 60, (n,)).tolist(), [True] * n), 1.0 + number % 3) for n in lengths]
        found.append(pack_rows([row], 16, 0))
    return found


def together(first, second):
    plain = {"position_ids": torch.arange(16)[None]}
    return {name: torch.cat([(plain | first)[name], (plain | second)[name]]) for name in first.keys() | second.keys()}


def trained(own, folder):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    )
    optimizer = build_optimizer(model, "adamw", learning_rate=1e-2, muon_learning_rate=1e-2, weight_decay=0.0)
    trainer = LongTrainer(
        model=model,
        args=training_arguments(Path(folder), max_steps=STEPS, precision="fp32", log_steps=1),
        train_dataset=BatchList(own),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, [weight.detach().clone() for weight in model.parameters()]


def _process(rank, size, folder):
    import os

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (Path(folder) / "port").read_text()}
    torch.set_num_threads(1)
    found = trained(batches()[rank::size], f"{folder}/{rank}")
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    mp.spawn(_process, args=(2, str(tmp_path)), nprocs=2)
    every = batches()
    losses, weights = trained([together(*every[i : i + 2]) for i in range(0, 2 * STEPS, 2)], tmp_path / "alone")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for shown, learned in found:
        assert shown == pytest.approx(losses, abs=1e-4)
        for mine, expected in zip(learned, weights, strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


class Counting:
    """A source whose documents say which draw they are."""

    def document(self, rng, length):
        return Document([rng.randrange(1, 50) for _ in range(length)], [True] * length)


def test_processes_take_batches_in_turn_and_lose_none():
    def stream(**place):
        return DocumentStream(
            [Stage(tokens=64, lengths={length: 1}, mix={"a": 1}, shortest_document=8) for length in (16, 32)],
            {"a": Counting()},
            {"a": 1.0},
            batch_tokens=32,
            pad_token_id=0,
            seed=0,
            **place,
        )

    def first(source, count):
        return [batch["input_ids"].tolist() for batch, _ in zip(source, range(count), strict=False)]

    whole = first(stream(), 6)
    shared = [first(stream(rank=rank, ranks=2), 3) for rank in range(2)]
    assert [shared[number % 2][number // 2] for number in range(6)] == whole
    assert first(stream(rank=1, ranks=2, start_step=1), 2) == shared[1][1:]
