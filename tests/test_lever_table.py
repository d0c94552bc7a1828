"""What every lever of the table promises: the model bit for bit as found, and a checkpoint that needs no Farspan.

The table itself is walked. A new lever is tried on a tiny Llama with the settings it has by default; only one that
needs another model, or something learned first, is named below.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM, PreTrainedModel

from farspan.attention import Linearize, Squeezed, build_prefix_cache, save_prefix
from farspan.errors import LeverConflict, LeverNotApplicable
from farspan.models.lightning import hybrid_layer_types
from farspan.positions import get_rope
from farspan.recipe import LEVERS, Lever, Recipe, build_lever, lever_class
from farspan.training import FineTune
from tests.positions import conftest
from tests.positions.conftest import WINDOW, model_of, settings_of
from tests.vision_models import vision_model

LENGTH = 3 * WINDOW
Prepared = tuple[PreTrainedModel, Lever]


def ids_of(length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Ids that all these models have, and that stand for no image."""
    return conftest.ids_of(length, batch, seed).remainder(80) + 1


def by_default(name: str, architecture: str = "llama") -> Prepared:
    """The lever on a tiny model of an architecture, sparse from the first token on where it can be told to be."""
    model, fields = model_of(architecture), lever_class(name).model_fields
    settings: dict[str, object] = {}
    if "factor" in fields:
        settings = {"factor": 4, **settings_of(name, get_rope(model.config).rotary_dim)}
    if "min_length" in fields:
        settings["min_length"] = 0
    return model, build_lever(name, settings)


def _batches(model: PreTrainedModel, count: int = 3) -> list[dict[str, torch.Tensor]]:
    rows = [ids_of(24, batch=4, seed=seed) for seed in range(count)]
    return [{"input_ids": ids, "labels": ids, "loss_weights": torch.ones(ids.shape)} for ids in rows]


def _tuned(folder: Path, architecture: str = "llama") -> Prepared:
    model = model_of(architecture)
    out = folder / f"{architecture}.safetensors"
    return model, FineTune(tokens=200).fit(model, _batches(model), out, batch_tokens=96, precision="fp32")


def _linearized(folder: Path) -> Prepared:
    model = model_of("llama")
    lever = Linearize(keep_every=2, tokens=200)
    return model, lever.fit(model, iter(_batches(model)), folder / "layers.safetensors", batch_tokens=96)


def _squeezed(folder: Path) -> Prepared:
    model = model_of("llama")
    save_prefix(build_prefix_cache(model, ids_of(WINDOW)[0].tolist(), observation_window=8), folder / "prefix")
    return model, Squeezed(prefix=str(folder / "prefix"), min_length=0)


def _hybrid(folder: Path) -> Prepared:
    torch.manual_seed(0)
    config = MiniMaxConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        layer_types=hybrid_layer_types(2, 2),
        block_size=8,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return MiniMaxForCausalLM(config).eval(), build_lever("lightning", {})


PREPARED: dict[str, Callable[[Path], Prepared]] = {
    "hope": lambda folder: (vision_model(), build_lever("hope", {})),
    "lightning": _hybrid,
    "linearize": _linearized,
    "squeezed": _squeezed,
    "fine-tune": _tuned,
}


def prepared(name: str, folder: Path) -> Prepared:
    return PREPARED[name](folder) if name in PREPARED else by_default(name)


def state_of(model: PreTrainedModel) -> dict[str, object]:
    """Everything a lever could leave behind, tensors as copies."""
    found: dict[str, object] = {}
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    for number, config in enumerate(configs.values()):
        found |= {f"config {number}.{name}": repr(value) for name, value in vars(config).items()}
    for path, module in model.named_modules():
        found[f"{path} is"] = id(module)
        found[f"{path} training"] = module.training
        found[f"{path} attributes"] = sorted(vars(module))
        hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
        found[f"{path} hooks"] = [list(each) for each in hooks]
    for path, parameter in model.named_parameters(remove_duplicate=False):
        found[path] = (parameter.requires_grad, parameter.grad, parameter.detach().clone())
    for path, buffer in model.named_buffers(remove_duplicate=False):
        found[path] = (False, None, buffer.clone())
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    def same(one: object, other: object) -> bool:
        if isinstance(one, tuple) and isinstance(other, tuple):
            return one[:2] == other[:2] and torch.equal(one[2], other[2])
        return one == other

    names = before.keys() | after.keys()
    return sorted(
        name for name in names if name not in before or name not in after or not same(before[name], after[name])
    )


@torch.no_grad()
def used(model: PreTrainedModel) -> torch.Tensor:
    """Logits of a long row, then a few tokens more from the cache, then a short row."""
    prompt = ids_of(LENGTH)
    logits: torch.Tensor = model(input_ids=prompt, use_cache=False).logits
    model.generate(prompt, max_new_tokens=3, do_sample=False)
    return torch.cat([logits, model(input_ids=ids_of(8), use_cache=False).logits], 1)


@pytest.mark.parametrize("name", LEVERS)
def test_a_model_is_bit_for_bit_as_found(name: str, tmp_path: Path) -> None:
    model, lever = prepared(name, tmp_path)
    # What a first call leaves in a model is transformers' own.
    logits = used(model)
    before = state_of(model)
    with lever(model):
        used(model)
    assert differences(before, state_of(model)) == []
    assert torch.equal(used(model), logits)

    def fail() -> None:
        with lever(model):
            used(model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert differences(before, state_of(model)) == []
    assert torch.equal(used(model), logits)


def test_the_state_compared_here_sees_what_levers_change(tmp_path: Path) -> None:
    for name in ("yarn", "pbs", "fine-tune", "snapkv"):
        model, lever = prepared(name, tmp_path)
        used(model)
        before = state_of(model)
        with lever(model):
            assert differences(before, state_of(model)), name


@pytest.mark.parametrize("first", [name for name in LEVERS if lever_class(name).slot])
def test_two_levers_of_one_slot_are_refused_together(first: str, tmp_path: Path) -> None:
    _, lever = prepared(first, tmp_path)
    for second in (name for name in LEVERS if lever_class(name).slot == lever.slot and name not in PREPARED):
        with pytest.raises(LeverConflict, match=f"'{first}' and '{second}' both change {lever.slot}") as caught:
            Recipe([lever, by_default(second)[1]])
        assert "\n" not in str(caught.value)


# Baking, of levers that are no method of stretching; those have a test of their own in the positions room.

SCRIPT = """
import json, sys
from pathlib import Path
import torch, transformers
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
for folder in sorted(Path(sys.argv[1]).iterdir()):
    kind = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    stored = torch.load(folder / "expected.pt")
    with torch.no_grad():
        error = float((model(input_ids=stored["ids"], use_cache=False).logits - stored["logits"]).abs().max())
        said = model.generate(stored["prompt"], max_new_tokens=8, do_sample=False)
    print(json.dumps({"name": folder.name, "error": error, "same_text": torch.equal(said, stored["said"])}))
assert "farspan" not in sys.modules
"""
BAKED_ELSEWHERE = {name for name in LEVERS if "factor" in lever_class(name).model_fields}
OTHERS = [name for name in LEVERS if lever_class(name).bake is not Lever.bake and name not in BAKED_ELSEWHERE]
ARCHITECTURES = ("llama", "qwen3", "gemma3", "mistral", "phi3", "stablelm")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_baked_model_computes_the_same_in_a_plain_process(name: str, tmp_path: Path) -> None:
    if name == "fine-tune":
        models = [_tuned(tmp_path, architecture) for architecture in ARCHITECTURES]
    elif name == "hope":
        models = [(vision_model(kind), build_lever("hope", {})) for kind in ("qwen2_vl", "qwen2_5_vl")]
    else:
        models = [by_default(name, architecture) for architecture in ARCHITECTURES]
    root = tmp_path / "baked"
    for model, lever in models:
        folder, ids, prompt = root / str(model.config.model_type), ids_of(LENGTH, seed=1), ids_of(WINDOW - 3, seed=2)
        with torch.no_grad(), lever(model):
            expected = {"ids": ids, "logits": model(input_ids=ids, use_cache=False).logits, "prompt": prompt}
            expected["said"] = model.generate(prompt, max_new_tokens=8, do_sample=False)
        plain = model(input_ids=ids, use_cache=False).logits
        assert (plain - expected["logits"]).abs().max() > 1e-3
        lever.bake(model)
        model.save_pretrained(folder)
        torch.save(expected, folder / "expected.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, root], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(models)
    for row in rows:
        assert row["error"] < 1e-5, row
        assert row["same_text"], row


@pytest.mark.parametrize("name", [name for name in LEVERS if lever_class(name).bake is Lever.bake])
def test_a_lever_that_works_at_run_time_says_so_when_baked(name: str, tmp_path: Path) -> None:
    model, lever = prepared(name, tmp_path)
    before = state_of(model)
    assert not lever.bakeable
    for bake in (lever.bake, Recipe([lever]).bake):
        with pytest.raises(LeverNotApplicable, match=r"run time only and cannot be baked") as caught:
            bake(model)
        assert "\n" not in str(caught.value)
    assert differences(before, state_of(model)) == []
