"""CLEX: the flow, its positions in training, and serving it at every length."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from farspan.errors import FarspanError, LeverNotApplicable, RecipeError
from farspan.positions import (
    Clex,
    ClexDynamics,
    RopeSpec,
    clex_inference_t,
    clex_log_scale,
    clex_train_positions,
    get_rope,
    plan_rope,
    rope_frequencies,
    save_extended,
)
from farspan.positions.apply import rotary_modules
from farspan.positions.clex import ClexDraw, ClexTable
from farspan.positions.clex_flow import save_dynamics
from farspan.positions.drawn import own_inv_freq
from farspan.recipe import Recipe, build_lever
from tests.positions.conftest import CONFIGS, WINDOW, config_of, ids_of, logits_of, model_of
from tests.positions.test_rerotate import one_layer

BARE = Clex(factor=4, max_factor=4, act="none")


def bent(flow: ClexDynamics, strength: float = 0.05) -> ClexDynamics:
    """A flow that leaves its path, as a learned one does."""
    assert flow.ode_down_proj is not None
    torch.nn.init.normal_(flow.ode_down_proj, std=strength, generator=torch.Generator().manual_seed(1))
    return flow


def learned(folder: Path, architecture: str = "llama", **settings: object) -> Clex:
    """A lever with a file of learned weights."""
    lever = Clex.model_validate({"factor": 4, "max_factor": 4, **settings})
    rope = get_rope(config_of(architecture))
    path = save_dynamics(bent(lever.fresh_dynamics(rope)), folder / "clex.safetensors", lever.told(rope))
    return lever.model_copy(update={"weights": str(path)})


def frequencies_now(model: PreTrainedModel) -> torch.Tensor:
    ((_, _, rotary),) = rotary_modules(model, model.config)
    found: torch.Tensor = rotary.inv_freq.clone()
    return found


def draw_of(lever: Clex, model: PreTrainedModel, flow: ClexDynamics) -> ClexDraw:
    rope = get_rope(model.config)
    own = own_inv_freq(model)
    return ClexDraw(flow, own, 1.0, rope.target_length, lever.max_factor, lever.t_sampling, lever.per, lever.time_dt)


# The flow


@pytest.mark.parametrize("t", [1, 2, 3, 4, 16])
def test_before_learning_it_is_dynamic_ntk_of_factor_two(t: int) -> None:
    wanted, _ = rope_frequencies({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5e5}, 16, WINDOW, t * WINDOW)
    (found,) = ClexDynamics(16, 5e5).frequencies([float(t)])
    torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("act", ["tanh", "silu"])
def test_integration_agrees_with_the_derivative_and_with_fine_steps(act: str) -> None:
    flow = bent(ClexDynamics(16, 1e4, act=act), 0.2 if act == "tanh" else 0.05)
    h = 1e-4
    for t in (1.5, 4.0):
        before, at, after = flow.frequencies([t - h, t, t + h]).log()
        torch.testing.assert_close((after - before) / (2 * h), flow.derivative(at, t), rtol=1e-5, atol=1e-6)
    coarse, fine = flow.frequencies([2.0, 5.3, 8.0]), flow.frequencies([2.0, 5.3, 8.0], time_dt=0.01)
    torch.testing.assert_close(coarse, fine, rtol=1e-5, atol=0)


def test_coarse_steps_stay_exact_while_it_learns() -> None:
    flow = ClexDynamics(16, 1e4)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        target = torch.randn(8, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (
            flow.frequencies([float(torch.randint(1, 9, (1,), generator=generator))]).log() - target
        ).square().sum().backward()
        optimizer.step()
    bare = ClexDynamics(16, 1e4).frequencies([8.0])
    coarse, fine = flow.frequencies([8.0]), flow.frequencies([8.0], time_dt=0.01)
    assert not torch.allclose(coarse, bare, rtol=0.1)
    torch.testing.assert_close(coarse, fine, rtol=1e-5, atol=0)


def test_paths_other_than_the_growing_base() -> None:
    rope = get_rope(config_of("llama"))
    for path in ("linear", "yarn"):
        flow = Clex(factor=4, path=path, act="none").fresh_dynamics(rope)
        assert not list(flow.parameters())
        lever = build_lever(path, {"factor": 4})
        wanted = lever.stretch(rope).inv_freq  # type: ignore[attr-defined]
        torch.testing.assert_close(flow.frequencies([1.0, 4.0])[1], wanted, rtol=1e-5, atol=0)
        assert torch.equal(flow.frequencies([1.0])[0], flow.start.exp())


@pytest.mark.parametrize("ts", [[], [0.5], [2.0, 1.0]])
def test_scales_must_ascend_from_one(ts: list[float]) -> None:
    with pytest.raises(LeverNotApplicable, match="ascend"):
        ClexDynamics(8, 1e4).frequencies(ts)


# Positions and scales


@given(seq_len=st.integers(2, 300), window=st.integers(8, 128), t=st.floats(1, 16), seed=st.integers(0, 2**31))
def test_training_positions_rise_from_zero_to_the_end(seq_len: int, window: int, t: float, seed: int) -> None:
    positions = clex_train_positions(seq_len, window, t, torch.Generator().manual_seed(seed))
    squeeze = max(1, seq_len // window)
    last = math.floor(seq_len * t) // squeeze - 1
    assert positions.shape == (seq_len,)
    assert positions.dtype == torch.float32
    assert positions[0] == 0
    assert bool((positions.diff() > 0).all())
    assert last <= positions[-1] < math.floor(seq_len * t) / squeeze
    if squeeze == 1:
        assert positions[-1] == last


def test_at_scale_one_a_row_is_read_as_it_is() -> None:
    assert torch.equal(clex_train_positions(WINDOW, WINDOW, 1), torch.arange(WINDOW).float())
    assert torch.equal(clex_train_positions(2 * WINDOW, WINDOW, 1), torch.arange(2 * WINDOW) / 2)
    assert torch.equal(clex_train_positions(1, WINDOW, 3), torch.zeros(1))


@given(length=st.integers(1, 10_000), resolution=st.sampled_from([1.0, 0.5, 0.25]))
def test_inference_scale_covers_the_length(length: int, resolution: float) -> None:
    t = clex_inference_t(length, 64, 16, resolution)
    assert 1 <= t <= 16
    assert t == 16 or (t * 64 >= length and (t == 1 or (t - resolution) * 64 < length))


def test_logarithmic_scale_never_flattens() -> None:
    assert clex_log_scale(10, 64) == 1
    assert clex_log_scale(64 * 64, 64) == pytest.approx(2)


@pytest.mark.parametrize("sampling", ["integer", "uniform", "log-uniform"])
def test_scales_are_drawn_over_the_whole_range(sampling: str) -> None:
    lever = Clex.model_validate({"factor": 4, "max_factor": 8, "t_sampling": sampling})
    model = model_of("llama")
    draw = draw_of(lever, model, lever.fresh_dynamics(get_rope(model.config)))
    scales = torch.tensor(draw.scales(8000, torch.Generator().manual_seed(0)))
    assert 1 <= scales.min() < 1.01
    assert 7.99 < scales.max() <= 8
    below_two = float((scales < 2).float().mean())
    assert below_two == pytest.approx({"integer": 1 / 8, "uniform": 1 / 7, "log-uniform": 1 / 3}[sampling], abs=0.02)


# Training passes


@pytest.mark.parametrize("architecture", CONFIGS)
def test_scale_one_is_the_model_itself_in_training_and_evaluation(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClexDraw, "scales", lambda self, count, generator: [1.0] * count)
    model, ids = model_of(architecture), ids_of(WINDOW, batch=2)
    before = logits_of(model, ids)
    with BARE(model):
        assert torch.equal(logits_of(model, ids), before)
        model.train()
        assert torch.equal(logits_of(model, ids), before)
        model.eval()
    assert torch.equal(logits_of(model, ids), before)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_both_matrices_and_are_finite(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClexDraw, "scales", lambda self, count, generator: [16.0] * count)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
        )
    ).train()
    lever = Clex(factor=16)
    flow = bent(lever.fresh_dynamics(get_rope(model.config)))
    ids = ids_of(512)
    with lever.engaged(model, flow), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for parameter in flow.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
        assert float(parameter.grad.abs().max()) > 0


def test_a_pass_shares_one_scale_or_draws_one_a_sample() -> None:
    model, places = model_of("llama"), torch.arange(WINDOW)[None]
    for per, rows in (("batch", 1), ("sample", 5)):
        lever = Clex.model_validate({"factor": 4, "max_factor": 16, "per": per})
        flow = lever.fresh_dynamics(get_rope(model.config))
        drawn = draw_of(lever, model, flow)(places, 5, torch.Generator().manual_seed(0))
        assert drawn.positions.shape == (rows, WINDOW)
        assert drawn.inv_freq.shape == (rows, 1, 8)
        scales = [round(float(last + 1) / WINDOW) for last in drawn.positions[:, -1]]
        assert len(set(scales)) == (1 if per == "batch" else len(set(scales))) > (0 if per == "batch" else 1)
        for t, vector in zip(scales, drawn.inv_freq[:, 0], strict=True):
            torch.testing.assert_close(vector, flow.frequencies([float(t)])[0].float())


def test_packed_documents_share_the_spread_from_its_beginning() -> None:
    model = model_of("llama")
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0]])
    drawn = draw_of(BARE, model, BARE.fresh_dynamics(get_rope(model.config)))(
        places, 1, torch.Generator().manual_seed(3)
    )
    assert torch.equal(drawn.positions[0, 4:7], drawn.positions[0, :3])
    assert drawn.positions[0, 7] == 0


# Serving


def unrotated_cache(
    model: LlamaForCausalLM, chunks: list[torch.Tensor], places: torch.Tensor, real: torch.Tensor, table: ClexTable
) -> torch.Tensor:
    """Logits of the last chunk, with keys cached before rotation and all rotated by the present frequencies."""
    keys: list[torch.Tensor] = [torch.empty(0)] * len(model.model.layers)
    values = list(keys)
    seen = 0
    for chunk in chunks:
        rows, width = chunk.shape
        seen += width
        here = places[:, :seen]
        length = int(here.max()) + 1
        own = get_rope(model.config).inv_freq
        inv_freq = (own if length <= WINDOW else table.frequencies(length)).float()
        angles = torch.cat([here[..., None] * inv_freq] * 2, -1)
        cos, sin = angles.cos(), angles.sin()
        order = torch.arange(seen)
        allowed = (order[None, :] <= order[seen - width :, None])[None] & real[:, None, :seen]
        bias = torch.where(allowed, 0.0, -1e9)[:, None]
        hidden = model.model.embed_tokens(chunk)
        for index, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            q, k, v = (
                project(normed).view(rows, width, -1, attention.head_dim).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            keys[index] = torch.cat([keys[index], k], -2) if seen > width else k
            values[index] = torch.cat([values[index], v], -2) if seen > width else v
            q, _ = apply_rotary_pos_emb(q, q, cos[:, -width:], sin[:, -width:])
            _, k = apply_rotary_pos_emb(keys[index], keys[index], cos, sin)
            k, v = (repeat_kv(part, attention.num_key_value_groups) for part in (k, values[index]))
            weights = (q @ k.transpose(-1, -2) * attention.scaling + bias).softmax(-1)
            hidden = hidden + attention.o_proj((weights @ v).transpose(1, 2).reshape(rows, width, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits: torch.Tensor = model.lm_head(model.model.norm(hidden))
    return logits


@torch.no_grad()
def test_turned_caches_equal_caches_before_rotation_across_two_switches(tmp_path: Path) -> None:
    model, lever = model_of("llama"), learned(tmp_path)
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    rope = get_rope(model.config)
    table = ClexTable(lever, rope, lever.dynamics(rope))
    total = 2 * WINDOW + 3
    ids, real = ids_of(total, batch=2), torch.ones(2, total, dtype=torch.long)
    real[1, :11] = 0
    places = (real.cumsum(-1) - 1).clamp(min=0)
    widths = [WINDOW - 2, 3, WINDOW - 2, 2, 1, 1]
    chunks = list(ids.split(widths, dim=1))
    with lever(model):
        cache = DynamicCache(config=model.config)
        start = 0
        for chunk in chunks:
            end = start + chunk.shape[1]
            found = model(
                input_ids=chunk,
                attention_mask=real[:, :end],
                position_ids=places[:, start:end],
                past_key_values=cache,
            ).logits
            start = end
    wanted = unrotated_cache(model, chunks, places, real.bool(), table)
    torch.testing.assert_close(found[:, -1], wanted[:, -1], rtol=0, atol=1e-4)
    assert not torch.allclose(table.frequencies(WINDOW + 1), table.frequencies(total), rtol=0.01)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "glm"])
@pytest.mark.parametrize("log_scale", [False, True])
def test_decoding_across_the_window_equals_reading_again_in_one_layer(architecture: str, log_scale: bool) -> None:
    model = one_layer(architecture)
    ids = ids_of(WINDOW + 3, batch=2)
    lever = BARE.model_copy(update={"log_scale": log_scale})
    with lever(model), torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, : WINDOW - 2], past_key_values=cache)
        for position in range(WINDOW - 2, WINDOW + 3):
            step = model(input_ids=ids[:, position : position + 1], past_key_values=cache).logits[:, -1]
            again = model(input_ids=ids[:, : position + 1], use_cache=False).logits[:, -1]
            torch.testing.assert_close(step, again, rtol=0, atol=1e-4)


def test_the_scale_follows_the_length_and_resolution_refines_it(tmp_path: Path) -> None:
    model, lever = model_of("llama"), learned(tmp_path)
    rope = get_rope(model.config)
    flow = lever.dynamics(rope)
    own = frequencies_now(model)
    for resolution, length, t in ((1, WINDOW, 1), (1, WINDOW + 1, 2), (0.5, WINDOW + 1, 1.5), (0.3, 4 * WINDOW, 4)):
        with lever.model_copy(update={"resolution": resolution})(model):
            logits_of(model, ids_of(length))
            wanted = own if t == 1 else flow.frequencies([t])[0].float()
            torch.testing.assert_close(frequencies_now(model), wanted, rtol=1e-6, atol=0)


def test_beyond_the_longest_scale_it_goes_on_with_a_warning() -> None:
    model = model_of("llama")
    with BARE(model):
        logits_of(model, ids_of(4 * WINDOW))
        longest = frequencies_now(model)
        with pytest.warns(UserWarning, match="beyond 4 windows of 64"):
            assert torch.isfinite(logits_of(model, ids_of(5 * WINDOW))).all()
        assert torch.equal(frequencies_now(model), longest)


def test_frozen_it_is_the_flow_at_the_target(tmp_path: Path) -> None:
    model, lever = model_of("llama"), learned(tmp_path)
    ids = ids_of(4 * WINDOW)
    with lever(model):
        following = logits_of(model, ids)
    spec: RopeSpec = lever.plan(model.config)
    assert "weights" not in spec.params
    folder = save_extended(model, None, tmp_path / "frozen", spec)
    reloaded = LlamaForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits_of(reloaded, ids), following, rtol=0, atol=1e-5)
    lever.bake(model)
    torch.testing.assert_close(logits_of(model, ids), following, rtol=0, atol=1e-5)


def test_a_learned_flow_goes_through_a_recipe_and_leaves_no_trace(tmp_path: Path) -> None:
    model, ids = model_of("llama"), ids_of(3 * WINDOW)
    before = logits_of(model, ids)
    lever = learned(tmp_path)
    read = Recipe.from_yaml(Recipe([lever]).to_yaml(tmp_path / "recipe.yaml"))
    with lever(model):
        flowing = logits_of(model, ids)
    with read(model):
        assert torch.equal(logits_of(model, ids), flowing)
    with BARE(model):
        assert not torch.allclose(logits_of(model, ids), flowing, atol=1e-3)
    assert torch.equal(logits_of(model, ids), before)


def test_the_sharpening_grows_with_the_scale() -> None:
    spec = BARE.model_copy(update={"log_scale": True}).plan(config_of("llama"))
    assert spec.attention_factor**2 == pytest.approx(math.log(4 * WINDOW) / math.log(WINDOW))
    assert BARE.plan(config_of("llama")).attention_factor == 1


# What is refused


def test_flows_of_others_are_refused(tmp_path: Path) -> None:
    config = config_of("llama")
    lever = learned(tmp_path)
    with pytest.raises(FarspanError, match="no learned flow yet"):
        Clex(factor=2)(model_of("llama"))
    with pytest.raises(FarspanError, match="no learned flow yet"):
        plan_rope(config, "clex", 4 * WINDOW)
    with pytest.raises(LeverNotApplicable, match="learned with act=tanh, not silu"):
        lever.model_copy(update={"act": "silu"}).check(config)
    with pytest.raises(LeverNotApplicable, match="param_factor"):
        lever.model_copy(update={"param_factor": 2.0}).check(config)
    with pytest.raises(LeverNotApplicable, match="belongs to another model"):
        lever.check(config_of("stablelm"))
    config.max_position_embeddings = 2 * WINDOW
    with pytest.raises(LeverNotApplicable, match=f"original_length={WINDOW}, not {2 * WINDOW}"):
        lever.check(config)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FarspanError, match="cannot read the learned flow"):
        lever.model_copy(update={"weights": str(tmp_path / "bad.safetensors")}).check(config_of("llama"))


def test_flows_of_the_official_code_can_be_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    flow = bent(ClexDynamics(16, 1e4, time_embedding_theta=1e4))
    tensors = {f"model.clex_layer.proj_func.{name}": tensor for name, tensor in flow.state_dict().items()}
    save_file(tensors, str(tmp_path / "official.safetensors"))
    settings = {"factor": 4, "time_embedding_theta": 1e4, "weights": str(tmp_path / "official.safetensors")}
    spec = Clex.model_validate(settings).plan(config_of("llama"))
    torch.testing.assert_close(spec.inv_freq, flow.frequencies([4.0])[0].detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 2, "max_factor": 1}, "greater than or equal to 2"),
        ({"factor": 17}, "factor 17 is above max_factor 16"),
        ({"factor": 2, "act": "relu"}, "act"),
        ({"factor": 2, "resolution": 0}, "resolution"),
        ({"factor": 2, "time_dt": 0}, "time_dt"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build_lever("clex", settings)


def test_models_without_enough_pairs_or_with_sections_are_refused() -> None:
    narrow = LlamaConfig(hidden_size=8, num_attention_heads=4, head_dim=2, max_position_embeddings=WINDOW)
    with pytest.raises(LeverNotApplicable, match="at least 4 rotary channels, not 2"):
        BARE.check(narrow)
    sectioned = config_of("llama")
    sectioned.rope_parameters = {**sectioned.rope_parameters, "mrope_section": [2, 3, 3]}
    with pytest.raises(LeverNotApplicable, match="use yarn"):
        BARE.check(sectioned)
