"""`farspan extend`: a checkpoint for plain transformers, and one line for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from farspan.cli import main

SIZES = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = LlamaConfig(
    **SIZES,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)


def _write(folder: Path, config: PretrainedConfig) -> Path:
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    words = WordLevel({f"w{index}": index for index in range(50)}, unk_token="w0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("llama"), LLAMA)


def _extend(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["extend", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_checkpoint_is_written_and_described(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert _extend(llama, "--method", "yarn", "--target-length", "1k", "--out", out, "--param", "beta_fast=16") == 0
    shown = capsys.readouterr().out
    assert "window 64 -> 1024 tokens" in shown
    assert str(out) in shown
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == 1024
    assert model.config.rope_parameters["rope_type"] == "yarn"
    assert model.config.rope_parameters["beta_fast"] == 16
    assert model.config.farspan["original_length"] == 64
    assert AutoTokenizer.from_pretrained(out).model_max_length == 1024
    before = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_options_reach_the_file(llama: Path, tmp_path: Path) -> None:
    options = ["--format", "longrope", "--no-vllm-keys", "--fold-attention-factor"]
    assert _extend(llama, "--method", "yarn", "--target-length", "256", "--out", tmp_path, *options) == 0
    parameters = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    assert parameters["rope_type"] == "longrope"
    assert parameters["attention_factor"] == 1
    assert "short_mscale" not in parameters


def test_a_stretched_model_is_composed(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert _extend(llama, "--method", "truncated-basis", "--target-length", "128", "--out", once) == 0
    again = [once, "--method", "linear", "--target-length", "256", "--out", twice]
    assert _extend(*again) == 2
    assert _extend(*again, "--compose") == 0
    assert "64 -> 256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "yarn", "--target-length", "64"], "target length 64 is not above the model's window of 64"),
        (["--method", "spiral", "--target-length", "1k"], "'spiral' does not stretch positions; choose one of"),
        (["--method", "yarn", "--target-length", "far"], "'far' is not a length"),
        (["--method", "yarn", "--target-length", "1k", "--param", "beta=3"], "no setting 'beta'"),
        (["--method", "yarn", "--target-length", "1k", "--param", "beta_fast"], "is not KEY=VALUE"),
        (["--method", "yarn", "--target-length", "1k", "--param", "factor=3"], "use --target-length"),
        (["--method", "yarn", "--target-length", "1k", "--param", "beta_fast=0"], "beta_fast"),
        (["--method", "longrope", "--target-length", "1k", "--param", "factors=[1, 2]"], "give 8, one a pair"),
        (["--method", "power-basis", "--target-length", "1k", "--format", "native"], "use format longrope or auto"),
        (["--method", "yarn", "--target-length", "1k", "--layer-type", "full_attention"], "leave layer_type out"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _extend(llama, *arguments, "--out", tmp_path / "out") == 2
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out" / "config.json").exists()


def test_models_and_folders_that_cannot_serve_are_one_line(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2 = _write(tmp_path / "gpt2", GPT2Config(**SIZES, n_embd=16, n_head=2, n_layer=1))
    (tmp_path / "file").write_text("")
    request = ["--method", "yarn", "--target-length", "4k", "--out"]
    for arguments, message in (
        ([gpt2, *request, tmp_path / "out"], "has no rotary positions"),
        ([tmp_path / "nothing", *request, tmp_path / "out"], "no folder"),
        ([llama, *request, tmp_path / "file"], "cannot write in output folder"),
        ([llama, *request, llama], "is the model's own folder"),
    ):
        capsys.readouterr()
        assert _extend(*arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1]
        assert len(lines) == 1
