"""The C program: it builds once, and what happens where it does not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from farspan.attention import BackendRefused, BlockPlan, block_sparse_attention
from farspan.attention.executors import building, execute, native
from farspan.attention.executors.choice import Chooser, Costs, random_plan
from tests.attention.plans import dense_attention, full_plan, random_inputs, random_keep

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("cc", "gcc", "clang")), reason="no C compiler"
)


@pytest.fixture
def fresh() -> Iterator[None]:
    """No program is loaded before or after."""
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_it_is_built_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.library()
    (file,) = own_cache.glob("native-*.so")
    assert [path.name for path in own_cache.iterdir()] == [file.name]
    native.library.cache_clear()
    monkeypatch.setattr(building, "_build", lambda *_: pytest.fail("built twice"))
    native.library()


@pytest.mark.usefixtures("fresh")
def test_no_compiler_is_said_and_another_executor_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_which", lambda name: None)
    query, key, value = random_inputs(1, 2, 2, 32, 32, 16)
    plan = full_plan(query, key)
    with pytest.raises(native.NativeFailed, match="no C compiler found"):
        block_sparse_attention(query, key, value, plan, backend="native")
    costs = Costs((1.0,), (1.0,), 1e-9, {"gather": 3e-9, "native": 1e-9}, 1.0)
    monkeypatch.setattr("farspan.attention.executors.choice.machine_costs", lambda *_: costs)
    chooser = Chooser(cells={"torch.float32": 1e10})
    output, _, backend = execute(query, key, value, plan, None, "auto", False, chooser)
    assert backend == "gather"
    assert [reason[:20] for reason in chooser.take_failures()] == ["no C compiler found "]
    torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_a_program_that_does_not_build_says_why(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FLAGS", ("-no-such-flag",))
    with pytest.raises(native.NativeFailed, match="does not build"):
        native.library()


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("dim", "value_dim"), [(64, 64), (80, 48), (20, 12), (128, 128)])
def test_shapes_and_threads(dim: int, value_dim: int, threads: int) -> None:
    query, key, value = random_inputs(2, 6, 3, 150, 190, dim)
    value = value[..., :value_dim].transpose(1, 2).contiguous().transpose(1, 2)
    plan = BlockPlan.from_block_mask(
        random_keep(2, 3, 150, 190, 64, 32, share=0.5),
        q_len=150,
        kv_len=190,
        block_q=64,
        block_k=32,
        columns=torch.tensor([[[0, 7, 99, 150, 188]], [[3, -1, -1, 189, 40]]]),
        allow_empty=True,
    )
    expected, norm = block_sparse_attention(query, key, value, plan, backend="reference", return_lse=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        output, lse = block_sparse_attention(query, key, value, plan, backend="native", return_lse=True)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, norm, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_wide_ranges_of_scores_stay_exact() -> None:
    query, key, value = random_inputs(1, 2, 2, 256, 256, 32)
    plan = random_plan(256, 2, 1.0)
    for scaling in (1e-6, 1.0, 8.0):
        expected = block_sparse_attention(query, key, value, plan, scaling=scaling, backend="reference")
        output = block_sparse_attention(query, key, value, plan, scaling=scaling, backend="native")
        torch.testing.assert_close(output, expected, atol=5e-5, rtol=5e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in random_inputs(1, 4, 2, 100, 100, 32)]
    plan = full_plan(inputs[0], inputs[1])
    expected = block_sparse_attention(*(x.float() for x in inputs), plan, backend="native")
    output = block_sparse_attention(*inputs, plan, backend="native")  # type: ignore[call-overload]
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype))


def test_what_it_does_not_take() -> None:
    query, key, value = random_inputs(1, 2, 2, 32, 32, 8)
    with pytest.raises(BackendRefused, match="multiples of 16, not 8"):
        block_sparse_attention(query, key, value, full_plan(query, key, 8), backend="native")
    with pytest.raises(BackendRefused, match="no gradients"):
        block_sparse_attention(query.requires_grad_(), key, value, full_plan(query, key), backend="native")
    with pytest.raises(BackendRefused, match="no float64"):
        block_sparse_attention(
            *(x.detach().double() for x in (query, key, value)), full_plan(query, key), backend="native"
        )
