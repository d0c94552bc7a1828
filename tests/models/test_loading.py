"""Loading: folders, hub names offline, and one clear line for everything that is missing."""

import pytest

from farspan.errors import ModelNotFound
from farspan.models import load, model_path


def test_paths_that_hold_no_model(tmp_path):
    with pytest.raises(ModelNotFound, match=r"config\.json is missing"):
        load(tmp_path)
    with pytest.raises(ModelNotFound, match="no folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelNotFound, match="is a file"):
        load(tmp_path / "file")


def test_a_hub_name_offline_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert model_path("org/name") == "org/name"
    with pytest.raises(ModelNotFound, match="hub cannot be reached") as caught:
        load("farspan-tests/no-such-model")
    assert "\n" not in str(caught.value)


def test_missing_weights_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 8}')
    with pytest.raises(ModelNotFound, match="missing or broken"):
        load(tmp_path)


def test_the_reference_model_loads():
    model, tokenizer = load("reference")
    assert model.config.max_position_embeddings == 512
    assert len(tokenizer) == model.config.vocab_size
    assert not model.training
