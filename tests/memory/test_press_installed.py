"""The presses of kvpress itself, in a process of their own since importing it changes attention for all models.

Skipped where kvpress is not installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from farspan.memory import ExpectedAttention, KeyDiff, KeyNorm, KVPressAdapter, SnapKV, Tova, to_press
from farspan.recipe import Recipe
import kvpress
from tests.attention.conftest import tiny_model
from tests.attention.test_any_model import tokens

torch.set_num_threads(1)
torch.set_grad_enabled(False)
model, ids = tiny_model("llama"), tokens(2, 120)
greedy = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
norm = kvpress.KnormPress
stored = [
    (norm(0.5), 64),
    (kvpress.SnapKVPress(0.5, window_size=8), 64),
    (kvpress.ExpectedAttentionPress(0.5), 64),
    (kvpress.AdaKVPress(norm(0.5)), 124),
    (kvpress.ComposedPress([norm(0.5), kvpress.ThinKPress(0.3)]), 64),
    (kvpress.DecodingPress(norm(), compression_interval=2, target_size=100), 100),
]
before = [(set(vars(module)), set(module._modules)) for module in model.modules()]
for press, keys in stored:
    with Recipe([KVPressAdapter(press)])(model):
        cache = model.generate(ids, **greedy).past_key_values
    assert cache.layers[0].keys.shape[2] == keys, (press, cache.layers[0].keys.shape)
    assert cache.get_seq_length() == 124, press
    assert before == [(set(vars(module)), set(module._modules)) for module in model.modules()], press
levers = [KeyNorm(), SnapKV(window=8), ExpectedAttention(window=16), Tova(), KeyDiff()]
for lever in levers:
    press = to_press(lever)
    assert isinstance(press, kvpress.ScorerPress)
    with KVPressAdapter(press)(model):
        actual = model.generate(ids, **greedy).sequences
    with lever(model):
        assert torch.equal(actual, model.generate(ids, **greedy).sequences), lever
    with KVPressAdapter(kvpress.ComposedPress([press]))(model):
        assert torch.equal(actual, model.generate(ids, **greedy).sequences), lever
print("all presses")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("kvpress") is None, reason="kvpress is not installed")
def test_presses_of_kvpress_and_levers_as_presses() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "all presses"
