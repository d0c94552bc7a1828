"""`farspan train`: a checkpoint from one file, and one line for what cannot be trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from farspan.cli import main

TEXT = "the cat sat on the mat and looked at the moon. " * 40
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = {"model_type": "llama", **SMALL, "max_position_embeddings": 32}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}


def _file(folder: Path, text: str = TEXT, **changes: object) -> Path:
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    for index in range(3):
        (texts / f"{index}.txt").write_text(text)
    source = {"source": "farspan.training.data.text:TextFiles", "settings": {"folder": str(texts)}}
    corpus = {"source": "farspan.training.data.text:TextFiles", "settings": {"folder": str(_corpus(folder))}}
    document = {
        "name": "toy",
        "model": LLAMA,
        "tokenizer": {"vocab_size": 512, "corpus": [corpus]},
        "sources": {"text": source},
        "stages": [{"tokens": 256, "lengths": {64: 1}, "mix": {"text": 1}, "shortest_document": 8}],
        "batch_tokens": 128,
        "precision": "fp32",
        **changes,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _corpus(folder: Path) -> Path:
    place = folder / "corpus"
    place.mkdir(exist_ok=True)
    for index in range(3):
        (place / f"{index}.txt").write_text(TEXT)
    return place


def _train(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_model_is_trained_with_a_lever_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(_file(tmp_path, levers="yarn:factor=2"), "--out", tmp_path / "out") == 0
    assert f"wrote {tmp_path / 'out' / 'final'}" in capsys.readouterr().out
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "final")
    # The lever is no part of what is saved.
    assert trained.config.max_position_embeddings == 32


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"levers": "yarn:factor=2,linear:factor=2"}, "levers 'yarn' and 'linear' both change positions"),
        ({"levers": "spiral:factor=2"}, "unknown lever 'spiral'"),
        ({"levers": "yarn:factor=0.5"}, "factor: Input should be greater than or equal to 1"),
        ({"levers": "longrope:factor=2,factors=[1, 2]"}, "2 factors were given for a rotary dimension of 16; give 8"),
        ({"levers": "clex:factor=2"}, "no learned flow yet"),
        ({"levers": "e2:factor=2", "model": GPT2}, "has no rotary positions"),
        (
            {"levers": "yarn:factor=2", "text": "a short text. "},
            "stretches a window of 32 tokens, but the longest of 8 documents has",
        ),
        (
            {
                "levers": "yarn:factor=2",
                "stages": [{"tokens": 256, "lengths": {32: 1}, "mix": {"text": 1}, "shortest_document": 8}],
            },
            "nothing beyond it would be trained; give longer documents and row lengths",
        ),
        ({"text": ""}, "text files are empty"),
        ({"batch_tokens": 32}, "batch_tokens 32 is below the longest row of 64 tokens"),
        ({"name": None}, "name: Input should be a valid string"),
    ],
)
def test_bad_input_is_one_line(
    changes: dict[str, object], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(_file(tmp_path, **changes), "--out", tmp_path / "out") == 2  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert line in printed.err
    assert printed.err.rstrip().count("\n") == 0
    assert not (tmp_path / "out" / "final").exists()


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path / "none.yaml", "--out", tmp_path / "out") == 2
    assert "cannot read training file" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("name: [")
    assert _train(tmp_path / "bad.yaml", "--out", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert "is not valid YAML" in printed
    assert printed.rstrip().count("\n") == 0


def test_a_plan_says_what_a_step_takes_and_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train("plan", "--model", "reference", "--length", "32k", "--memory", "1") == 0
    printed = capsys.readouterr().out
    assert "4,065,536 parameters" in printed
    assert "Fits 1 GiB with: recompute all but attention." in " ".join(printed.split())
    assert _train("plan", "--model", "reference", "--length", "32k", "--memory", "0.1") == 0
    assert "Nothing here fits 0.1 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--model", "none/of/these", "--length", "4k"), "no folder"),
        (("--model", "reference", "--length", "far"), "is not a length in tokens"),
        (("--model", "reference", "--length", "100", "--context-parallel", "3"), "cannot be shared by 3 ranks evenly"),
    ],
)
def test_a_plan_of_nothing_is_one_line(
    arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train("plan", *arguments) == 2
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.rstrip().count("\n") == 0
