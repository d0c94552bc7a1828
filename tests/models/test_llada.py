"""LLaDA checkpoints: every tensor finds its place, and whatever does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from farspan.errors import ModelNotFound
from farspan.models import from_llada
from tests.diffusion_models import ids_of, model_of

PARTS = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
SETTINGS: dict[str, object] = {
    "model_type": "llada",
    "d_model": 32,
    "mlp_hidden_size": 48,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_sequence_length": 64,
    "vocab_size": 41,
    "embedding_size": 41,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "mask_token_id": 40,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "include_bias": False,
    "layer_norm_type": "rms",
    "weight_tying": False,
}


def checkpoint(folder: Path, drop: str = "", **settings: object) -> Path:
    """A tiny model under LLaDA's names, in two files."""
    tensors = {}
    for name, tensor in model_of().state_dict().items():
        pieces = name.split(".")
        if pieces[1] == "layers":
            theirs = f"model.transformer.blocks.{pieces[2]}.{PARTS['.'.join(pieces[3:-1])]}.weight"
        else:
            theirs = {"embed_tokens": "wte", "norm": "ln_f", "weight": "ff_out"}[pieces[1]]
            theirs = f"model.transformer.{theirs}.weight"
        tensors[theirs] = tensor.clone()
    tensors.pop(drop, None)
    names = sorted(tensors)
    for number, half in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in half}, folder / f"model-{number}.safetensors")
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    return folder


@torch.no_grad()
def test_a_checkpoint_computes_what_it_did(tmp_path: Path) -> None:
    loaded = from_llada(checkpoint(tmp_path))
    assert torch.equal(loaded(ids_of(20)).logits, model_of()(ids_of(20)).logits)
    assert loaded.config.mask_token_id == 40
    assert from_llada(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("drop", "settings", "words"),
    [
        ("model.transformer.blocks.1.ff_proj.weight", {}, r"no tensor for 'model.layers.1.mlp.gate_proj.weight'"),
        ("", {"n_layers": 3}, "no tensor for 'model.layers.2"),
        ("", {"n_layers": 1}, "more than config.json says: 'model.layers.1"),
        ("", {"d_model": 64}, "has shape"),
        ("", {"mask_token_id": None}, "mask_token_id missing"),
        ("", {"include_bias": True}, "include_bias=True"),
    ],
)
def test_what_does_not_fit_is_named(drop: str, settings: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=words) as caught:
        from_llada(checkpoint(tmp_path, drop, **settings))
    assert "\n" not in str(caught.value)


def test_unknown_tensors_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="cannot read the model"):
        from_llada(tmp_path)
    checkpoint(tmp_path)
    save_file({"model.transformer.wpe.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelNotFound, match=r"wpe\.weight' belongs to no part"):
        from_llada(tmp_path)
