"""A whole run from its settings: a killed run that resumes ends with the weights of one that was never interrupted."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from farspan.errors import FarspanError
from farspan.training import Document, DocumentStream, Stage, TrainConfig, TrainConfigError, train
from farspan.training.trainer import cosine

TEXT = "the cat sat on the mat and looked at the moon. " * 40


def settings(folder, tokens, levers=""):
    source = {"source": "farspan.training.data.text:TextFiles", "settings": {"folder": str(folder)}}
    return TrainConfig.model_validate(
        {
            "name": "toy",
            "model": {
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "tie_word_embeddings": True,
            },
            "tokenizer": {"vocab_size": 512, "corpus": [source]},
            "sources": {"text": source},
            "stages": [{"tokens": tokens, "lengths": {32: 1}, "mix": {"text": 1}, "shortest_document": 8}],
            "batch_tokens": 128,
            "precision": "fp32",
            "decay_fraction": 0,
            "save_steps": 4,
            "log_steps": 2,
            "warmup_steps": 1,
            "levers": levers,
        }
    )


@pytest.mark.parametrize("levers", ["", "e2:factor=4,max_factor=4"])
def test_resumed_run_equals_an_uninterrupted_one(levers, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for index in range(3):
        (texts / f"{index}.txt").write_text(TEXT * (index + 1))
    whole = train(settings(texts, 128 * 8, levers), tmp_path / "whole")
    train(settings(texts, 128 * 4, levers), tmp_path / "halves")
    resumed = train(settings(texts, 128 * 8, levers), tmp_path / "halves")
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    log = [json.loads(line) for line in (tmp_path / "halves" / "train_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [2, 4, 6, 8]
    assert log[-1]["loss"] < log[0]["loss"]


def test_levers_of_the_file_change_what_is_learned_and_stay_out_of_what_is_saved(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(TEXT)
    plain = train(settings(tmp_path, 128 * 2), tmp_path / "plain")
    drawn = train(settings(tmp_path, 128 * 2, "e2:factor=4"), tmp_path / "drawn")
    first, second = load_file(plain / "model.safetensors"), load_file(drawn / "model.safetensors")
    assert first.keys() == second.keys()
    assert not all(torch.equal(first[name], second[name]) for name in first)
    assert (plain / "config.json").read_text() == (drawn / "config.json").read_text()


def test_the_cosine_rises_from_nothing_and_falls_to_its_least():
    rates = [cosine(step, 10, 100, 0.2) for step in range(120)]
    assert rates[0] == 0
    assert rates[10] == max(rates) == 1
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.6)
    assert rates[100:] == [pytest.approx(0.2)] * 20


def test_the_schedule_of_the_file_decides(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(TEXT)
    for schedule in ("trapezoid", "cosine"):
        config = settings(tmp_path, 128 * 8).model_copy(update={"schedule": schedule, "log_steps": 1})
        train(config, tmp_path / schedule)
    flat, falling = (
        [json.loads(line)["learning_rate"] for line in (tmp_path / name / "train_log.jsonl").read_text().splitlines()]
        for name in ("trapezoid", "cosine")
    )
    assert len(set(flat)) == 1
    assert falling[-1] < falling[2] < falling[1]


class Crumbs:
    """A source whose documents have nothing to predict."""

    def document(self, rng, length):
        return Document([3], [True])


def test_data_without_anything_to_learn_is_one_line_before_training_begins():
    stages = [
        Stage(tokens=128, lengths={32: 1}, mix={"some": 1}),
        Stage(tokens=128, lengths={64: 1}, mix={"crumbs": 1}),
    ]

    class Enough(Crumbs):
        def document(self, rng, length):
            return Document([3] * length, [True] * length)

    stream = DocumentStream(
        stages, {"some": Enough(), "crumbs": Crumbs()}, {}, batch_tokens=128, pad_token_id=0, seed=0
    )
    assert stream.batch(0)["labels"].shape == (4, 32)
    with pytest.raises(FarspanError, match="nothing to train on: crumbs made no document of two tokens") as caught:
        stream.check()
    assert "a row of 64; give more or longer documents" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_give_one_line(tmp_path):
    with pytest.raises(TrainConfigError, match="cannot read training file"):
        TrainConfig.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\n")
    with pytest.raises(TrainConfigError, match="model: Field required"):
        TrainConfig.from_yaml(tmp_path / "bad.yaml")
