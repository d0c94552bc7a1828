"""Tiles of the Triton kernels: which fit, and the measured choice, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farspan.attention.executors import tiles
from farspan.attention.executors.tiles import CANDIDATES, Tiles, fastest, forward_candidates, tuned
from tests.attention.plans import full_plan, random_inputs

SLOW, FAST, TOO_LARGE = Tiles(64, 32, 4, 2), Tiles(64, 64, 4, 2), Tiles(128, 128, 8, 3)


@pytest.mark.parametrize(
    ("q_len", "block", "group"), [(256, 128, 4), (256, 16, 1), (1, 128, 8), (1, 128, 1), (40, 32, 3)]
)
def test_candidates_fit_the_plan(q_len: int, block: int, group: int) -> None:
    query, key, _ = random_inputs(1, group, 1, q_len, 256, 8)
    found = forward_candidates(group, full_plan(query, key, block))
    assert found
    assert len(found) == len(set(found))
    for some in found:
        assert 16 <= some.rows <= max(16, 2 * block * group)
        assert 16 <= some.keys <= block
    if q_len > 1 and block == 128:
        assert set(found) == set(CANDIDATES)


def test_the_fastest_is_taken_and_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(tiles.time, "perf_counter", lambda: clock["now"])
    ran: list[Tiles] = []

    def run(some: Tiles) -> None:
        if some == TOO_LARGE:
            raise RuntimeError("out of resources")
        ran.append(some)
        clock["now"] += 2.0 if some == SLOW else 1.0

    waits: list[int] = []
    assert fastest([SLOW, TOO_LARGE, FAST], run, lambda: waits.append(1)) == FAST
    assert ran.count(SLOW) == ran.count(FAST) == 4
    assert len(waits) == 8
    with pytest.raises(RuntimeError, match="out of resources"):
        fastest([TOO_LARGE], run, lambda: None)


def test_the_choice_is_kept_for_the_next_process(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(tiles, "fastest", lambda *_: FAST)
    gpu, kind = torch.device("cuda"), ("forward", 64)
    assert tuned(kind, [SLOW, FAST], gpu, lambda some: None, {}) == FAST
    (file,) = own_cache.glob("tiles-*.json")
    monkeypatch.setattr(tiles, "fastest", lambda *_: pytest.fail("measured twice"))
    assert tuned(kind, [SLOW, FAST], gpu, lambda some: None, {}) == FAST
    file.write_text("{}")
    monkeypatch.setattr(tiles, "fastest", lambda *_: SLOW)
    assert tuned(kind, [SLOW, FAST], gpu, lambda some: None, {}) == SLOW
    # without a GPU there is nothing to measure
    assert tuned(kind, [TOO_LARGE, FAST], torch.device("cpu"), lambda some: None, {}) == TOO_LARGE
