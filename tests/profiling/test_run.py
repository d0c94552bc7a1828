"""A profile holds what was asked for; what cannot be measured is marked and costs nothing else."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from farspan.profiling import Profile, ProfileError, ProfilePoint, run_profile
from farspan.profiling.profile import to_csv, to_json


@contextmanager
def failing_beyond(model: PreTrainedModel, length: int, error: BaseException) -> Iterator[None]:
    """An allocator that is exhausted by prompts longer than `length`."""

    def check(module: object, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["input_ids"].shape[1] > length:
            raise error

    hook = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_points_hold_what_was_asked_for(llama: PreTrainedModel) -> None:
    calls: list[tuple[int, int]] = []
    profile = run_profile(
        llama, [64, 32, 64, 256], new_tokens=5, batch_size=2, repeats=3, progress=lambda *at: calls.append(at)
    )
    assert [point.length for point in profile.points] == [32, 64, 256]
    for point in profile.points:
        assert point.status == "ok"
        assert point.batch == 2
        assert point.ttft is not None
        assert point.tpot is not None
        assert point.ttft.n == point.tpot.n == 3
        assert 0 < point.ttft.p05 <= point.ttft.median <= point.ttft.p95
        assert len(point.itl_s) == 4
        assert point.decode_throughput == pytest.approx(2 / point.tpot.median)
        assert point.memory is not None
    assert calls == [(step, 12) for step in range(1, 13)]
    assert profile.ttft_complexity() is not None
    assert profile.attention == "sdpa"
    assert profile.parameters == llama.num_parameters()


def test_time_to_first_token_grows_with_length(llama: PreTrainedModel) -> None:
    profile = run_profile(llama, [16, 2048], new_tokens=2, repeats=3, memory=False)
    short, long = profile.ttft_curve()
    assert long[1] > 2 * short[1]
    assert all(point.memory is None for point in profile.points)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough memory: you tried"),
    ],
)
def test_exhausted_memory_is_marked_and_the_others_go_on(llama: PreTrainedModel, error: BaseException) -> None:
    with failing_beyond(llama, 100, error):
        profile = run_profile(llama, [32, 64, 128, 256], new_tokens=2, repeats=2)
    assert [point.status for point in profile.points] == ["ok", "ok", "oom", "oom"]
    assert profile.points[2].ttft is None
    assert "\n" not in profile.points[2].note
    assert profile.points[2].note
    assert len(profile.ttft_curve()) == 2
    assert profile.ttft_complexity() is None


def test_other_errors_are_not_hidden(llama: PreTrainedModel) -> None:
    with failing_beyond(llama, 100, RuntimeError("shapes do not match")), pytest.raises(RuntimeError, match="shapes"):
        run_profile(llama, [128], new_tokens=2, repeats=1)


def test_lengths_beyond_a_position_table_are_unsupported() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=16, n_layer=1, n_head=1)).eval()
    profile = run_profile(model, [32, 128], new_tokens=2, repeats=1)
    assert [point.status for point in profile.points] == ["ok", "unsupported"]


def test_recurrent_models_are_measured(mamba: PreTrainedModel) -> None:
    profile = run_profile(mamba, [16, 64], new_tokens=3, repeats=2)
    assert all(point.status == "ok" for point in profile.points)


def test_equal_seeds_give_equal_prompts(llama: PreTrainedModel) -> None:
    seen: list[torch.Tensor] = []
    hook = llama.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    for seed in (1, 1, 2):
        run_profile(llama, [40], new_tokens=2, repeats=1, warmup=0, memory=False, seed=seed)
    hook.remove()
    prompts = seen[::2]
    assert torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompts[2])
    assert len(set(prompts[0].flatten().tolist())) > 30


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [0, 5]}, "lengths"),
        ({"new_tokens": 1}, "new_tokens is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"warmup": -1}, "warmup is -1"),
    ],
)
def test_wrong_settings_are_refused(llama: PreTrainedModel, wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ProfileError, match=named):
        run_profile(llama, **{"lengths": [8], **wrong})  # type: ignore[arg-type]


def test_files_read_back(llama: PreTrainedModel, tmp_path: Path) -> None:
    with failing_beyond(llama, 50, MemoryError("full")):
        profile = run_profile(llama, [16, 64], new_tokens=3, repeats=2, name="tiny", recipe="linear:factor=2")
    (tmp_path / "profile.json").write_text(to_json([profile, profile]))
    assert Profile.load(tmp_path / "profile.json") == [profile, profile]
    rows = list(csv.DictReader(io.StringIO(to_csv([profile]))))
    assert [row["status"] for row in rows] == ["ok", "oom"]
    first = profile.points[0]
    assert first.ttft is not None
    assert first.memory is not None
    assert float(rows[0]["ttft_s"]) == first.ttft.median
    assert int(rows[0]["kv_cache_bytes"]) == first.memory.kv_cache
    assert rows[1]["ttft_s"] == ""
    assert rows[1]["n"] == "0"
    (tmp_path / "broken.json").write_text("{}")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(ProfileError, match=name):
            Profile.load(tmp_path / name)


@pytest.mark.timing
def test_two_runs_agree(llama: PreTrainedModel) -> None:
    def medians() -> list[float]:
        points = run_profile(llama, [512, 1024], new_tokens=8, repeats=9, memory=False).points
        return [value(point) for point in points for value in (_ttft, _tpot)]

    ratios = [one / other for one, other in zip(medians(), medians(), strict=True)]
    assert all(abs(ratio - 1) < 0.15 for ratio in ratios), ratios


@pytest.mark.timing
def test_measuring_adds_next_to_nothing(llama: PreTrainedModel) -> None:
    """Time per token by the profile against a bare loop of forwards, interleaved."""
    import time

    from farspan.engine.forward import Forward
    from farspan.profiling.timing import fresh_cache, token_times

    forward = Forward(llama)
    prompt = torch.randint(0, 300, (1, 1024))
    ours: list[float] = []
    bare: list[float] = []
    with torch.no_grad():
        for _ in range(9):
            moments = token_times(forward, prompt, 33, keep=1)
            ours.append(moments[-1] - moments[0])
            cache = fresh_cache(forward, 1, 1024 + 33)
            token = forward(prompt, cache)[:, -1].argmax(-1)
            start = time.perf_counter()
            for _ in range(32):
                token = forward(token[:, None], cache)[:, -1].argmax(-1)
            bare.append(time.perf_counter() - start)
    assert statistics.median(ours) / statistics.median(bare) < 1.05


def _ttft(point: ProfilePoint) -> float:
    assert point.ttft is not None
    return point.ttft.median


def _tpot(point: ProfilePoint) -> float:
    assert point.tpot is not None
    return point.tpot.median
