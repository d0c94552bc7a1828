"""The measured choice of executors and its cache."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farspan.attention.executors import ExecutorFailed, choice
from farspan.attention.executors.choice import Chooser, Costs, break_even, machine_costs, random_plan
from tests.attention.plans import full_plan, random_inputs

FAST_FLEX = Costs((1.0,) * 4, (1.0,) * 4, 2e-9, {"gather": 3e-9, "flex": 2e-9}, compile_seconds=5.0)


def chosen(chooser: Chooser, *, grad: bool = False, lse: bool = False, dtype: torch.dtype = torch.float32) -> str:
    query, key, _ = random_inputs(1, 2, 2, 32, 32, 8, dtype=dtype)
    return chooser.choose(query, key, full_plan(query, key), need_lse=lse, need_grad=grad)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """FAST_FLEX is what this machine is said to measure; the list holds the dtypes asked for."""
    asked: list[torch.dtype] = []

    def known(dtype: torch.dtype, *_: object) -> Costs:
        asked.append(dtype)
        return FAST_FLEX

    monkeypatch.setattr(choice, "machine_costs", known)
    return asked


def test_what_is_known_is_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Costs((1.0,) * 4, (1.0,) * 4, 2e-9, {"gather": 3e-9, "native": 2e-9}, 5.0)
    assert chosen(Chooser()) == "gather"
    choice.write_json(choice._file_name(torch.float32, choice.CPU), asdict(fast))
    monkeypatch.setattr(choice, "measure", lambda *_: pytest.fail("measured although known"))
    assert chosen(Chooser()) == "native"


def test_little_work_measures_nothing(costs: list[torch.dtype]) -> None:
    assert chosen(Chooser()) == "gather"
    assert costs == []


def test_flex_is_compiled_once_it_would_have_paid(costs: list[torch.dtype]) -> None:
    # 1 ns a cell is gained, compiling takes 5 s: worth it after 5e9 cells
    assert chosen(Chooser(cells={"torch.float32": 4e9})) == "gather"
    assert costs == [torch.float32]
    chooser = Chooser(cells={"torch.float32": 6e9})
    assert chosen(chooser) == "flex"
    assert chosen(chooser) == "flex"
    assert len(costs) == 2


def test_an_unmeasured_flex_is_measured_and_may_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Costs((1.0,) * 4, (1.0,) * 4, 2e-9, {"gather": 3e-9}, 1.0)
    slow = Costs((1.0,) * 4, (1.0,) * 4, 2e-9, {"gather": 3e-9, "flex": 4e-9}, 1.0)
    measured: list[torch.dtype] = []
    monkeypatch.setattr(choice, "machine_costs", lambda *_: slow if measured else unknown)
    monkeypatch.setattr(choice, "measure_flex", lambda dtype: measured.append(dtype) or slow)
    chooser = Chooser(cells={"torch.float32": 1e11})
    assert [chosen(chooser), chosen(chooser)] == ["gather", "gather"]
    assert measured == [torch.float32]


def test_gradients_and_logsumexps_leave_flex_out(costs: list[torch.dtype]) -> None:
    chooser = Chooser(cells={"torch.float32": 1e12})
    assert chosen(chooser, grad=True) == "masked"
    assert chosen(chooser, lse=True) == "gather"
    assert chosen(Chooser(cells={"torch.float64": 1e12}), dtype=torch.float64) == "gather"


def test_the_compiled_program_is_taken_where_it_is_faster_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Costs((1.0,) * 4, (1.0,) * 4, 2e-9, {"gather": 3e-9, "native": 2e-9}, 5.0)
    monkeypatch.setattr(choice, "machine_costs", lambda *_: fast)
    monkeypatch.setattr(choice, "measure_flex", lambda dtype: pytest.fail("flex could not be faster"))
    work = {"torch.float32": 1e12}
    assert chosen(Chooser(cells=dict(work))) == "native"
    assert chosen(Chooser(cells=dict(work)), lse=True) == "native"
    assert chosen(Chooser(cells=dict(work)), grad=True) == "masked"
    broken = Chooser(cells=dict(work), ready=set())
    broken.failed("native", ExecutorFailed("no compiler"))
    broken.failed("flex", ExecutorFailed("no compiler"))
    assert chosen(broken) == "gather"
    query, key, _ = random_inputs(1, 2, 2, 32, 32, 8)
    small = full_plan(query, key, 8)
    assert Chooser(cells=dict(work)).choose(query, key, small, need_lse=True, need_grad=False) == "gather"


def test_executors_that_do_not_build_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ExecutorFailed("no compiler")

    monkeypatch.setitem(choice.ATTENDS, "native", broken)
    problem = choice.probe_problem(128, torch.float32)
    assert choice._working(*problem) == ["gather"]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "LENGTHS", (128, 256))


@pytest.mark.usefixtures("short")
def test_measurements_are_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine_costs(torch.float32)
    assert first.dense_cell > 0 < first.cells["gather"]
    assert first.executor in first.cells
    assert len(first.dense_seconds) == len(first.sparse_seconds) == 2
    assert 0.25 <= first.worthwhile_density <= 0.95
    assert len(list(own_cache.glob("attention-*.json"))) == 1
    choice._known.clear()
    monkeypatch.setattr(choice, "measure", lambda *_: pytest.fail("measured twice"))
    assert machine_costs(torch.float32) == first
    for file in own_cache.glob("*.json"):
        file.write_text("not json")
    choice._known.clear()
    monkeypatch.setattr(choice, "measure", lambda *_: FAST_FLEX)
    assert machine_costs(torch.float32) is FAST_FLEX


@pytest.mark.usefixtures("short")
def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path / "file" / "cache"))
    assert machine_costs(torch.float32).dense_cell > 0


def test_the_break_even_length_of_a_method_counts_its_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Costs((1.0, 2.0, 4.0, 8.0), (0.9, 1.5, 2.0, 4.0), 2e-9, {"gather": 3e-9}, 1.0)
    monkeypatch.setattr(choice, "machine_costs", lambda *_: measured)
    seconds = {"value": 0.0}
    monkeypatch.setattr(choice, "compare", lambda *_, **__: [seconds["value"], 0.0])
    lengths: list[int] = []

    def select(query: Tensor, key: Tensor) -> bool:
        lengths.append(query.shape[2])
        return query.shape[2] > 512

    seconds["value"] = 0.6
    assert break_even("a method", select, torch.float32) == 2048
    lengths.clear()
    assert break_even("a method", select, torch.float32) == 2048
    assert lengths == []
    seconds["value"] = 0.1
    assert break_even("a faster one", select, torch.float32) == 1024
    seconds["value"] = 100.0
    assert break_even("a slow one", select, torch.float32) == 8192


@pytest.mark.parametrize("density", [0.1, 0.25, 0.5, 1.0])
def test_random_plans_have_the_wanted_density(density: float) -> None:
    plan = random_plan(4096, 3, density, block=64, generator=torch.Generator().manual_seed(0))
    blocks = plan.block_mask().sum((-1, -2)) / (64 * 65 / 2)
    torch.testing.assert_close(blocks, torch.full_like(blocks, density), atol=0.02, rtol=0.0)
    assert plan.block_mask().diagonal(dim1=-2, dim2=-1).all()
