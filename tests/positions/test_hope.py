"""The lever on tiny vision-language models: identity, restoration, decoding, training, plain checkpoints."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, PreTrainedModel

from farspan.errors import FarspanError, LeverConflict, LeverNotApplicable, RecipeError
from farspan.positions import Hope, HopeRotary, get_rope, save_hope
from farspan.positions.hope import RopeIndex
from farspan.positions.multimodal import LAYOUTS, Layout
from farspan.recipe import Recipe, build_lever
from tests.vision_models import IMAGE, KINDS, VIDEO, Inputs, block, inputs_of, logits_of, vision_model

every_kind = pytest.mark.parametrize("kind", KINDS)

GRID = (5, 4, 6)
IMAGE_GRID = (1, 4, 4)
ROW = [1, 2, 3, *block(VIDEO, GRID), 4, 5, *block(IMAGE, IMAGE_GRID), 6, 7, 8]


def one() -> Inputs:
    return inputs_of([ROW], [IMAGE_GRID], [GRID])


def text(length: int = 40) -> Inputs:
    return inputs_of([[1 + (7 * index) % 80 for index in range(length)]])


def state_of(model: PreTrainedModel) -> tuple[dict[str, object], list[nn.Module], dict[str, torch.Tensor], set[str]]:
    tensors = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    return copy.deepcopy(model.config.to_dict()), list(model.modules()), tensors, set(model.model.__dict__)


def assert_as_before(model: PreTrainedModel, before: tuple[object, ...]) -> None:
    config, modules, tensors, attributes = state_of(model)
    # transformers notes class and type of the model in its configuration when saving.
    noted = {"architectures": None, "dtype": None}
    assert config | noted == before[0] | noted  # type: ignore[operator]
    assert all(found is known for found, known in zip(modules, before[1], strict=True))  # type: ignore[call-overload]
    assert all(torch.equal(value, before[2][name]) for name, value in tensors.items())  # type: ignore[index]
    assert attributes == before[3]


@every_kind
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_model_is_left_as_found(kind: str, layout: Layout) -> None:
    model = vision_model(kind)
    model.model.rope_deltas = torch.tensor([[3]])
    inputs = one()
    deltas = model.model.rope_deltas
    before, logits = state_of(model), logits_of(model, inputs)
    model.model.rope_deltas = deltas
    lever = Hope(layout=layout, inference_scale=0.75)
    with lever(model):
        changed = logits_of(model, inputs)
        assert model.model.rope_deltas is not None
    assert_as_before(model, before)
    assert model.model.rope_deltas is deltas
    assert torch.isfinite(changed).all()
    assert torch.equal(logits_of(model, inputs), logits)
    if layout != "mrope":
        assert not torch.allclose(changed, logits, atol=1e-2)
    with pytest.raises(KeyboardInterrupt), lever(model):
        raise KeyboardInterrupt
    assert_as_before(model, before)


@every_kind
def test_the_models_own_layout_is_the_model_itself(kind: str) -> None:
    model = vision_model(kind)
    # A video that does not outlast its square, where transformers places the text behind it correctly.
    inputs = inputs_of([[1, *block(VIDEO, (2, 8, 8)), 2, *block(IMAGE, (1, 4, 4)), 3]], [(1, 4, 4)], [(2, 8, 8)])
    base, base_text = logits_of(model, inputs), logits_of(model, text())
    with Hope(layout="mrope")(model):
        assert torch.equal(logits_of(model, inputs), base)
        assert torch.equal(logits_of(model, text()), base_text)


@every_kind
@pytest.mark.parametrize("layout", ["videorope", "vanilla"])
def test_text_alone_is_that_of_the_model(kind: str, layout: Layout) -> None:
    model = vision_model(kind)
    base = logits_of(model, text())
    with Hope(layout=layout)(model):
        assert torch.equal(logits_of(model, text()), base)


@every_kind
def test_text_alone_differs_in_the_pairs_at_rest_only(kind: str) -> None:
    model = vision_model(kind)
    base = logits_of(model, text())
    with Hope()(model):
        resting = logits_of(model, text())
    assert not torch.allclose(resting, base, atol=1e-4)
    model.model.language_model.rotary_emb.inv_freq[6:] = 0
    assert torch.equal(logits_of(model, text()), resting)


def rotated(layout: Layout, positions: torch.Tensor) -> torch.Tensor:
    """Products of turned queries and keys [length, length] at positions [3, length]."""
    model = vision_model()
    axes = Hope(layout=layout).axes(model.config)
    rotary = HopeRotary(model.model.language_model.rotary_emb.inv_freq, axes, nn.Identity())
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(1, positions.shape[1], 16, generator=generator) for _ in range(2))
    cos, sin = rotary(queries, positions[:, None])

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat((-second, first), dim=-1) * sin)[0]

    return turned(queries) @ turned(keys).T


def test_time_acts_through_height_and_width_only() -> None:
    positions = torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) * 20
    later = positions + torch.tensor([[100.0], [0.0], [0.0]]) * torch.arange(9)
    assert torch.equal(rotated("hope", later), rotated("hope", positions))
    assert not torch.allclose(rotated("videorope", later), rotated("videorope", positions), atol=1e-2)
    moved = positions + 37.5
    torch.testing.assert_close(rotated("hope", moved), rotated("hope", positions), rtol=0, atol=2e-4)


@every_kind
def test_logits_do_not_depend_on_where_the_count_begins(kind: str) -> None:
    model, inputs = vision_model(kind), one()
    with Hope(inference_scale=1.25)(model):
        positions, _ = model.model.get_rope_index(**{k: v for k, v in inputs.items() if "pixel" not in k})
        moved = logits_of(model, inputs, position_ids=positions + 11.5)
        torch.testing.assert_close(moved, logits_of(model, inputs), rtol=0, atol=1e-4)


@every_kind
def test_decoding_continues_at_the_true_position(kind: str) -> None:
    model, inputs = vision_model(kind), one()
    following = torch.tensor([[9, 10, 11]])
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], following], dim=1)}
    whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 3, dtype=torch.int)], dim=1)
    del whole["attention_mask"]
    with torch.no_grad(), Hope(inference_scale=0.75)(model):
        expected = model(**whole, use_cache=False).logits[:, -3:]
        cache = DynamicCache(config=model.config.text_config)
        model(**{k: v for k, v in inputs.items() if k != "attention_mask"}, past_key_values=cache, use_cache=True)
        assert float(model.model.rope_deltas) % 1 == 0
        steps = [model(input_ids=token[:, None], past_key_values=cache, use_cache=True).logits for token in following.T]
        torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=1e-4)


@every_kind
@pytest.mark.parametrize("scale", [0.75, 1.0, 1.1])
def test_generation_says_what_whole_passes_say_for_one_row_and_for_two(kind: str, scale: float) -> None:
    model = vision_model(kind)
    short = [1, *block(VIDEO, (4, 4, 4)), 9]
    with torch.no_grad(), Hope(inference_scale=scale)(model):
        pair = inputs_of([ROW, short], [IMAGE_GRID], [GRID, (4, 4, 4)])
        both = model.generate(**pair, max_new_tokens=6, do_sample=False)
        assert pair["video_grid_thw"].shape == (2, 3)
        pixels = pair["pixel_values_videos"].split([5 * 24, 4 * 16])
        for row, ids in enumerate((ROW, short)):
            alone = inputs_of([ids], [IMAGE_GRID] if row == 0 else [], [GRID if row == 0 else (4, 4, 4)])
            alone["pixel_values_videos"] = pixels[row]
            if row == 0:
                alone["pixel_values"] = pair["pixel_values"]
            single = model.generate(**alone, max_new_tokens=6, do_sample=False)
            assert torch.equal(single[0, -6:], both[row, -6:])
            again = {k: v for k, v in alone.items() if k not in ("attention_mask", "mm_token_type_ids")}
            again["input_ids"] = single
            again["mm_token_type_ids"] = (single == IMAGE).int() + 2 * (single == VIDEO).int()
            assert torch.equal(logits_of(model, again)[:, -7:-1].argmax(-1), single[:, -6:])
        torch.testing.assert_close(
            logits_of(model, pair)[0],
            logits_of(
                model,
                inputs_of([ROW], [IMAGE_GRID], [GRID])
                | {"pixel_values_videos": pixels[0], "pixel_values": pair["pixel_values"]},
            )[0],
            rtol=0,
            atol=1e-4,
        )


@every_kind
def test_deltas_are_counted_as_transformers_counts_them(kind: str) -> None:
    model = vision_model(kind)
    inputs = inputs_of([ROW, [1, *block(VIDEO, (4, 4, 4)), 9]], [IMAGE_GRID], [GRID, (4, 4, 4)])
    names = ("attention_mask", "image_grid_thw", "video_grid_thw")
    positions, deltas = Hope(inference_scale=0.75).place(
        model, inputs["input_ids"], **{name: inputs[name] for name in names}
    )
    last = positions[0, :, -1]
    assert torch.equal(deltas[:, 0], last + 1 - inputs["attention_mask"].sum(-1))
    assert "get_rope_index" not in model.model.__dict__


def test_half_precision_turns_by_angles_in_full() -> None:
    model = vision_model()
    with Hope()(model):
        exact = model.model.language_model.rotary_emb
        positions = torch.full((3, 1, 1), 4097.25)
        cos, sin = exact(torch.zeros(1, dtype=torch.float32), positions)
    model.to(torch.bfloat16)
    with Hope()(model):
        half = model.model.language_model.rotary_emb(torch.zeros(1, dtype=torch.bfloat16), positions)
    assert half[0].dtype == torch.bfloat16
    assert torch.equal(half[0], cos.bfloat16())
    assert torch.equal(half[1], sin.bfloat16())


@every_kind
def test_training_draws_strides_and_evaluation_does_not(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = vision_model(kind)
    lever = Hope(seed=4)
    inputs = one()
    grids = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw")}

    def spans(count: int) -> list[float]:
        index = RopeIndex(lever, model.model)
        found = [index(inputs["input_ids"], **grids)[0] for _ in range(count)]
        return [float(positions[0, 0, 4 + 6] - positions[0, 0, 4]) for positions in found]

    assert set(spans(3)) == {1.0}
    model.train()
    drawn = spans(60)
    assert set(drawn) == {0.5, 0.75, 1.0, 1.25, 1.5}
    assert spans(60) == drawn
    monkeypatch.setenv("RANK", "1")
    assert spans(60) != drawn
    monkeypatch.setenv("RANK", "0")
    lever = Hope(layout="mrope", seed=4)
    rate = getattr(model.config.vision_config, "tokens_per_second", 1)
    assert set(spans(5)) == {float(rate)}


@every_kind
def test_checkpointed_gradients_see_the_same_strides(kind: str) -> None:
    inputs = one()
    found = []
    for checkpointing in (False, True):
        model = vision_model(kind).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with Hope(seed=1)(model):
            for _ in range(2):
                model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_a_stride_can_follow_from_what_was_trained() -> None:
    model, inputs = vision_model(), one()
    lever = Hope(trained_index=3, temporal_scales=(0.5, 1.5))
    positions, _ = lever.place(model, inputs["input_ids"], **{k: v for k, v in inputs.items() if "grid" in k})
    assert float(positions[0, 0, 4 + 24] - positions[0, 0, 4]) == 3.0


def test_the_number_of_pairs_at_rest_can_be_chosen() -> None:
    config = vision_model().config
    assert Hope(temporal_pairs=5).sections(config) == [5, 2, 1]
    assert Hope(temporal_pairs=5).axes(config) == ["h", "w", "h", "nope", "nope", "nope", "nope", "nope"]
    assert Hope(temporal_pairs=0).axes(config) == ["h", "w"] * 4
    with pytest.raises(LeverNotApplicable, match="leave at least 2"):
        Hope(temporal_pairs=7).check(config)


@every_kind
@pytest.mark.parametrize("settings", [{}, {"layout": "videorope"}, {"temporal_pairs": 3}])
def test_a_baked_model_computes_the_same(kind: str, settings: dict[str, object]) -> None:
    model, inputs = vision_model(kind), one()
    lever = build_lever("hope", {"inference_scale": 0.75, **settings})
    assert isinstance(lever, Hope)
    with lever(model):
        expected, expected_text = logits_of(model, inputs), logits_of(model, text())
    positions, _ = lever.place(model, inputs["input_ids"], **{k: v for k, v in inputs.items() if "grid" in k})
    plain = logits_of(model, inputs, position_ids=positions)
    assert not torch.allclose(plain, expected, atol=1e-2)
    lever.bake(model)
    torch.testing.assert_close(logits_of(model, text()), expected_text, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits_of(model, inputs, position_ids=positions), expected, rtol=0, atol=1e-4)
    with lever(model):
        torch.testing.assert_close(logits_of(model, inputs), expected, rtol=0, atol=1e-4)
    assert get_rope(model.config).method == "hope"
    with pytest.raises(LeverNotApplicable, match="written into it already"):
        lever.bake(model)
    with pytest.raises(LeverNotApplicable, match="the checkpoint was written with layout="):
        Hope(temporal_pairs=2)(model)


def test_positions_alone_cannot_be_baked() -> None:
    for layout in ("mrope", "vanilla"):
        with pytest.raises(LeverNotApplicable, match="changes positions alone"):
            Hope(layout=layout).bake(vision_model())  # type: ignore[arg-type]


def test_what_it_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LeverNotApplicable, match="qwen2_vl and qwen2_5_vl, not on 'llama'"):
        Hope().check(LlamaConfig())
    config = vision_model().config
    config.text_config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    with pytest.raises(LeverNotApplicable, match="no mrope_section"):
        Hope().check(config)
    config.text_config.rope_parameters["mrope_section"] = [2, 3, 4]
    with pytest.raises(LeverNotApplicable, match="do not fit a head of 16 channels"):
        Hope().check(config)
    for settings in ({"inference_scale": 0}, {"temporal_scales": [1.0, -1.0]}, {"layout": "diagonal"}):
        with pytest.raises(RecipeError, match="lever 'hope': "):
            build_lever("hope", settings)
    with pytest.raises(LeverConflict, match="both change positions"):
        Recipe.parse("yarn:factor=2,hope:inference_scale=1.5")
    model = vision_model()
    with Hope()(model), pytest.raises(LeverNotApplicable, match="changed already"), Hope()(model):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(FarspanError, match="cannot write a checkpoint"):
        save_hope(model, None, tmp_path / "file" / "inside", Hope())


def test_recipes_hold_it() -> None:
    recipe = Recipe.parse("hope:inference_scale=1.5,temporal_scales=[0.5, 1.0],layout=videorope")
    (lever,) = recipe
    assert lever == Hope(inference_scale=1.5, temporal_scales=(0.5, 1.0), layout="videorope")
    assert Recipe.parse(str(recipe)) == recipe


SCRIPT = """
import json, sys
from pathlib import Path
import torch, transformers
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    stored = torch.load(folder / "expected.pt")
    with torch.no_grad():
        video = model(**stored["inputs"], position_ids=stored["positions"], use_cache=False).logits
        text = model(**stored["text"], use_cache=False).logits
        rows = torch.cat([torch.arange(stored["positions"].shape[-1])[None, None], stored["positions"]])
        said = model.generate(**stored["inputs"], position_ids=rows, max_new_tokens=6, do_sample=False)
    print(json.dumps({
        "name": folder.name,
        "video": float((video - stored["video"]).abs().max()),
        "text": float((text - stored["text_logits"]).abs().max()),
        "same_text": torch.equal(said, stored["said"]),
    }))
assert "farspan" not in sys.modules
"""


@pytest.mark.slow
def test_a_plain_process_computes_the_same(tmp_path: Path) -> None:
    for kind in KINDS:
        for settings in ({}, {"layout": "videorope"}, {"temporal_pairs": 3}):
            model, inputs = vision_model(kind), one()
            lever = build_lever("hope", {"inference_scale": 0.75, **settings})
            assert isinstance(lever, Hope)
            folder = tmp_path / f"{kind} {lever}"
            before = state_of(model)
            save_hope(model, None, folder, lever)
            assert_as_before(model, before)
            grids = {name: value for name, value in inputs.items() if "grid" in name}
            with lever(model):
                expected = {
                    "inputs": inputs,
                    "positions": lever.place(model, inputs["input_ids"], **grids)[0],
                    "video": logits_of(model, inputs),
                    "text": text(),
                    "text_logits": logits_of(model, text()),
                    "said": model.generate(**inputs, max_new_tokens=6, do_sample=False),
                }
            torch.save(expected, folder / "expected.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert row["video"] < 1e-5, row
        assert row["text"] < 1e-5, row
        assert row["same_text"], row
