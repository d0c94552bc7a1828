"""Fingerprints tell apart what can change an answer, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from farspan.engine import ModelSpec, fingerprint
from farspan.errors import FarspanError
from farspan.recipe import Recipe


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_sixteen_hex_digits_that_do_not_change(folder: Path) -> None:
    first = fingerprint(ModelSpec(path=str(folder)))
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert fingerprint(ModelSpec(path=folder)) == first


def test_a_copy_elsewhere_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(ModelSpec(path=str(copy))) == fingerprint(ModelSpec(path=str(folder)))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"attn": "eager"},
        {"levers": "linear:factor=2"},
        {"levers": "linear:factor=4"},
        {"max_model_len": 100},
        {"chat_template": "{{ messages }}"},
        {"trust_remote_code": True},
    ],
)
def test_every_setting_counts(folder: Path, change: dict[str, object]) -> None:
    assert fingerprint(ModelSpec(path=str(folder), **change)) != fingerprint(ModelSpec(path=str(folder)))  # type: ignore[arg-type]


def test_files_count_by_content(folder: Path) -> None:
    seen = {fingerprint(ModelSpec(path=str(folder)))}
    config = folder / "config.json"
    config.write_text(config.read_text().replace("4096", "8192"))
    seen.add(fingerprint(ModelSpec(path=str(folder))))
    weights = next(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    seen.add(fingerprint(ModelSpec(path=str(folder))))
    assert len(seen) == 3


def test_a_recipe_counts_by_what_it_says(folder: Path, tmp_path: Path) -> None:
    written = Recipe.parse("linear:factor=2").to_yaml(tmp_path / "recipe.yaml")
    assert fingerprint(ModelSpec(path=str(folder), levers=str(written))) == fingerprint(
        ModelSpec(path=str(folder), levers="linear:factor=2")
    )


def test_recipes_cut_at_commas_are_joined(folder: Path) -> None:
    cut = ModelSpec.model_validate({"path": str(folder), "levers": ["yarn:factor=4", "beta_fast=16"]})
    assert cut.recipe() == Recipe.parse("yarn:factor=4,beta_fast=16")
    assert (
        ModelSpec.model_validate({"path": "x", "levers": Recipe.parse("linear:factor=2")}).levers == "linear:factor=2.0"
    )


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_model_len"):
        ModelSpec(path="x", max_model_len=0)
    with pytest.raises(FarspanError, match="unknown lever 'nonsense'"):
        fingerprint(ModelSpec(path="x", levers="nonsense"))
