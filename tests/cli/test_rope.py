"""`farspan rope`: pairs on the screen, a page with its numbers, and a search that goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from farspan.cli import main
from farspan.models import reference_path
from farspan.positions import get_rope, plan_rope
from farspan.recipe import Recipe

LLAMA = LlamaConfig(
    vocab_size=50,
    bos_token_id=0,
    eos_token_id=0,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)


def _write(folder: Path, config: PretrainedConfig) -> Path:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(50)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("llama"), LLAMA)


def _rope(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["rope", *map(str, arguments)])
    return int(ended.value.code or 0)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_model_is_shown_as_it_is(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _rope("show", llama) == 0
    shown = capsys.readouterr().out
    assert "rotary pairs fully within its window of 64 tokens (n = 8 pairs)" in shown
    assert "turns within 64 tokens" in shown
    assert "6.28" in shown


def test_no_weights_are_read(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    assert _rope("show", tmp_path, "--method", "yarn", "--target-length", "1k") == 0
    assert _rope("distribution", tmp_path, "--target-length", "256") == 0


def test_a_method_is_shown_with_page_and_numbers(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--method", "yarn", "--target-length", "256", "--param", "beta_fast=16", "--out", tmp_path)
    assert _rope("show", llama, *arguments) == 0
    shown = capsys.readouterr().out
    assert "beta_fast=16" in shown
    assert "interpolated" in shown
    assert f"written: {tmp_path / 'rope.html'}" in shown.replace("\n", "")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"rope.html", "rotary_pairs.csv"}
    rows = _table(tmp_path / "tables" / "rotary_pairs.csv")
    before, after = get_rope(LLAMA), plan_rope(LLAMA, "yarn", 256, beta_fast=16)
    divisors = (before.inv_freq / after.inv_freq).tolist()
    assert [float(row["divisor"]) for row in rows] == pytest.approx(divisors)
    assert rows[0]["fate"] == "kept"
    assert rows[-1]["fate"] == "interpolated"


def test_distributions_are_shown_with_totals(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _rope("distribution", llama, "--target-length", "256", "--param", "rule=monotone", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "mean disturbance over n = 8 pairs" in shown
    assert all(f"{name} " in shown for name in ("chosen", "keep", "linear", "ntk", "yarn"))
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {"rotary_pairs.csv", "disturbance.csv", "angles.csv"}
    choices = [row["choice"] for row in _table(tmp_path / "tables" / "disturbance.csv")]
    assert choices == sorted(choices)


def test_a_search_writes_a_recipe_and_goes_on(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    draws = torch.randint(0, 50, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    text.write_text(" ".join(f"w{index}" for index in draws))
    out = tmp_path / "out"
    settings = ("--target-length", "128", "--text", text, "--population", "6", "--generations", "1", "--out", out)
    assert _rope("search", llama, *settings, "--evals", "4") == 0
    first = capsys.readouterr().out
    assert "after 4 evaluations on n = 1 texts" in first
    assert "run again to go on" in first
    assert _rope("search", llama, *settings) == 0
    assert "run again" not in capsys.readouterr().out
    (lever,) = Recipe.from_yaml(out / "recipe.yaml")
    assert len(lever.factors) == 8  # type: ignore[union-attr]
    paid = (out / "search.jsonl").read_text().splitlines()
    assert len(paid) > 5
    assert (out / "rope.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "MODEL", "--method", "yarn"], "given together"),
        (["show", "MODEL", "--target-length", "1k"], "given together"),
        (["show", "MODEL", "--param", "a=1"], "needs --method"),
        (["show", "MODEL", "--method", "yarn", "--target-length", "32"], "not above the model's window"),
        (["show", "MODEL", "--method", "yarns", "--target-length", "1k"], "does not stretch positions"),
        (["show", "GPT2"], "no rotary positions"),
        (["show", "EMPTY"], "config.json is missing"),
        (["show", "BROKEN"], "cannot be read"),
        (["distribution", "MODEL", "--target-length", "64"], "not above the model's window"),
        (["distribution", "MODEL", "--target-length", "1k", "--param", "bins=1"], "bins"),
        (["distribution", "MODEL"], "Missing option"),
        (["search", "MODEL", "--target-length", "128", "--text", "SHORT", "--out", "OUT"], "a text of at least 128"),
        (
            ["search", "MODEL", "--target-length", "128", "--text", "nowhere.txt", "--out", "OUT"],
            "cannot use nowhere.txt",
        ),
        (["scales", "MODEL", "--multiples", "1,two"], "is not a list of multiples"),
        (["scales", "MODEL", "--multiples", "0.5,1"], "each at least 1"),
        (["scales", "MODEL", "--lengths", "128"], "at least two lengths"),
        (["scales", "MODEL", "--recipe", "yarn:factor=2,linear:factor=2"], "both change positions"),
        (["scales", "MODEL", "--task", "no_such_task"], "no_such_task"),
        (["explain", "MODEL"], "No such command"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], line: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpt2").mkdir()
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no such thing"}')
    (tmp_path / "short.txt").write_text("w1 w2 w3")
    places = {
        "MODEL": llama,
        "GPT2": tmp_path / "gpt2",
        "EMPTY": tmp_path / "empty",
        "BROKEN": tmp_path / "broken",
        "SHORT": tmp_path / "short.txt",
        "OUT": tmp_path / "out",
    }
    assert _rope(*(places.get(argument, argument) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert line in printed.err
    assert printed.err.rstrip().count("\n") == 0


def test_scales_are_tried_and_the_best_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_path())
    config = LlamaConfig(
        **{**LLAMA.to_dict(), "vocab_size": len(tokenizer), "max_position_embeddings": 128}  # type: ignore[arg-type]
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = ("--recipe", "ntk:factor=2", "--multiples", "1,2", "--lengths", "128,200", "--n", "1")
    assert _rope("scales", tmp_path / "model", *settings, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "accuracy on single_lines (n = 8 a length); best: 1 times the trained scale" in shown
    assert Recipe.from_yaml(tmp_path / "out" / "recipe.yaml") == Recipe.parse("ntk:factor=2")
    rows = _table(tmp_path / "out" / "scales.csv")
    assert [(row["multiple"], row["window"], row["length"]) for row in rows] == [
        ("1.0", "256", "128"),
        ("1.0", "256", "200"),
        ("2.0", "512", "128"),
        ("2.0", "512", "200"),
    ]


@pytest.mark.parametrize("verb", ["show", "distribution", "search", "scales"])
def test_every_verb_has_a_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _rope(verb, "--help") == 0
    assert capsys.readouterr().out.count(f"farspan rope {verb}") >= 2
