"""Exported checkpoints say the same in a process that has never heard of Farspan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.positions import (
    PositionLever,
    RopeSpec,
    applied,
    get_rope,
    length_limits,
    lever_for,
    plan_rope,
    rope_parameters_of,
    save_extended,
)
from farspan.positions.apply import inv_freq_name, rotary_modules
from tests.positions.conftest import METHODS, WINDOW, config_of, ids_of, logits_of, model_of, settings_of

ARCHITECTURES = ["llama", "qwen3", "gemma3", "mistral", "phi3", "stablelm"]
TARGET = 4 * WINDOW
LENGTHS = (WINDOW // 2, WINDOW + 1, 3 * WINDOW)


def lever_of(architecture: str, method: str) -> PositionLever:
    config = config_of(architecture)
    return lever_for(config, method, TARGET, **settings_of(method, get_rope(config).rotary_dim))


def plan(architecture: str, method: str) -> RopeSpec:
    return lever_of(architecture, method).plan(config_of(architecture))


def install_by_hand(model: PreTrainedModel, spec: RopeSpec) -> None:
    """Write the vector into the buffers: what an export must reproduce, without configuration or rope types."""
    ((_, _, rotary),) = rotary_modules(model, model.config)
    name = inv_freq_name(spec.layer_type)
    getattr(rotary, name).copy_(spec.inv_freq)
    setattr(rotary, name.removesuffix("inv_freq") + "attention_scaling", spec.attention_factor)


def write(folder: Path, architecture: str, spec: RopeSpec, **options: bool | str) -> None:
    save_extended(model_of(architecture), None, folder, spec, **options)  # type: ignore[arg-type]
    expect(folder, architecture, spec)


def bake(folder: Path, architecture: str, lever: PositionLever) -> None:
    """The other way out: the lever written into the model, and the model saved as any other."""
    model = model_of(architecture)
    spec = lever.plan(model.config)
    lever.bake(model)
    model.save_pretrained(folder)
    expect(folder, architecture, spec)


def expect(folder: Path, architecture: str, spec: RopeSpec) -> None:
    model = model_of(architecture)
    ids = [ids_of(length, seed=length) for length in LENGTHS]
    unstretched = logits_of(model, ids[-1])
    install_by_hand(model, spec)
    # Else the tolerance below would not tell stretched from unstretched.
    assert (logits_of(model, ids[-1]) - unstretched).abs().max() > 1e-2
    prompt = ids_of(WINDOW - 3, seed=9)
    expected = {
        "ids": ids,
        "logits": [logits_of(model, one) for one in ids],
        "prompt": prompt,
        "new_tokens": 8,
        "generated": model.generate(prompt, max_new_tokens=8, do_sample=False),
    }
    torch.save(expected, folder / "expected.pt")


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What a plain process finds, a row for each architecture and method, and for some options."""
    root = tmp_path_factory.mktemp("exported")
    for architecture in ARCHITECTURES:
        for method in METHODS:
            bake(root / f"{architecture} {method}", architecture, lever_of(architecture, method))
    for architecture in ("llama", "gemma3"):
        write(root / f"{architecture} yarn longrope", architecture, plan(architecture, "yarn"), format="longrope")
        write(root / f"{architecture} linear native", architecture, plan(architecture, "linear"), format="native")
        write(
            root / f"{architecture} power-basis original",
            architecture,
            plan(architecture, "power-basis"),
            switch_length="original",
            vllm_keys=False,
        )
    for architecture in (*ARCHITECTURES, "gpt_neox"):
        write(
            root / f"{architecture} yarn folded", architecture, plan(architecture, "yarn"), fold_attention_factor=True
        )
    script = Path(__file__).with_name("load_and_compare.py")
    done = subprocess.run(
        [sys.executable, script, root],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows}


def check(row: dict[str, object]) -> None:
    assert max(row["errors"]) < 1e-5, row["errors"]  # type: ignore[call-overload]
    assert row["same_text"]
    assert row["window"] == TARGET
    assert row["record"]["original_length"] == WINDOW  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_a_plain_process_computes_the_same(
    reloaded: dict[str, dict[str, object]], method: str, architecture: str
) -> None:
    row = reloaded[f"{architecture} {method}"]
    check(row)
    assert row["record"]["method"] == method  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("option", ["yarn longrope", "linear native", "power-basis original"])
def test_other_forms_compute_the_same(reloaded: dict[str, dict[str, object]], option: str, architecture: str) -> None:
    check(reloaded[f"{architecture} {option}"])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_neox"])
def test_a_folded_attention_factor_computes_the_same(reloaded: dict[str, dict[str, object]], architecture: str) -> None:
    row = reloaded[f"{architecture} yarn folded"]
    check(row)
    parameters = row["rope_parameters"]
    assert isinstance(parameters, dict)
    assert parameters.get("full_attention", parameters)["attention_factor"] == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_baking_and_saving_write_the_same(method: str, architecture: str, tmp_path: Path) -> None:
    baked, lever = model_of(architecture), lever_of(architecture, method)
    lever.bake(baked)
    save_extended(model_of(architecture), None, tmp_path, lever.plan(config_of(architecture)), vllm_keys=False)
    written = type(baked.config).from_pretrained(tmp_path)
    for name in ("rope_parameters", "max_position_embeddings", "farspan"):
        assert getattr(written, name) == getattr(baked.config, name)


@pytest.mark.parametrize(
    ("architecture", "method", "written"),
    [
        ("llama", "linear", "longrope"),
        ("llama", "ntk", "default"),
        ("llama", "theta", "default"),
        ("llama", "dynamic-ntk", "default"),
        ("llama", "yarn", "yarn"),
        ("llama", "llama3", "llama3"),
        ("llama", "power-basis", "longrope"),
        ("llama", "truncated-basis", "longrope"),
        ("llama", "longrope", "longrope"),
        ("phi3", "yarn", "longrope"),
        ("phi3", "llama3", "longrope"),
    ],
)
def test_auto_takes_the_form_that_all_read_alike(architecture: str, method: str, written: str, tmp_path: Path) -> None:
    save_extended(model_of(architecture), None, tmp_path, plan(architecture, method))
    parameters = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    assert parameters["rope_type"] == written
    assert ("attention_factor" in parameters) == (written == "longrope")
    if written == "longrope":
        assert parameters["short_factor"] == parameters["long_factor"]
        assert parameters["original_max_position_embeddings"] == TARGET
        assert parameters["short_mscale"] == parameters["long_mscale"] == parameters["attention_factor"]


def test_yarn_without_rounding_on_layer_typed_models_is_written_as_a_vector() -> None:
    config = config_of("gemma3")
    spec = plan_rope(config, "yarn", TARGET, truncate=False)
    model = model_of("gemma3")
    with applied(model, spec):
        assert model.config.rope_parameters["full_attention"]["rope_type"] == "longrope"
    with pytest.raises(LeverNotApplicable, match="use format longrope or auto"), applied(model, spec, "native"):
        pass


def test_saving_leaves_model_and_tokenizer_as_they_are(tmp_path: Path) -> None:
    model = model_of("qwen3")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")), model_max_length=WINDOW
    )
    before, weights = model.config.to_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    save_extended(model, tokenizer, tmp_path / "new" / "folder", plan("qwen3", "yarn"), fold_attention_factor=True)
    # transformers notes the class of the model in its configuration when saving.
    assert model.config.to_dict() | {"architectures": None} == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert tokenizer.model_max_length == WINDOW
    assert AutoTokenizer.from_pretrained(tmp_path / "new" / "folder").model_max_length == TARGET


def test_native_is_refused_where_there_is_none() -> None:
    with pytest.raises(LeverNotApplicable, match="has no rope_type of its own"):
        rope_parameters_of(plan("llama", "power-basis"), "native")
    with pytest.raises(LeverNotApplicable, match="choose one of: auto, native, longrope"):
        save_extended(model_of("llama"), None, "unused", plan("llama", "yarn"), "ntk")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FarspanError, match="cannot write a checkpoint"):
        save_extended(model_of("llama"), None, tmp_path / "file" / "inside", plan("llama", "yarn"))


def test_other_limits_are_listed() -> None:
    model = model_of("gemma3")
    assert length_limits(model, plan("gemma3", "yarn"))["sliding_window"] == 32
    assert "sliding_window" not in length_limits(model_of("llama"), plan("llama", "yarn"))
