"""Plans keep their limits for any mix of requests; the scheduler collects, answers and closes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.engine import Request, Result
from farspan.engine.batching import MAX_WASTE, PADDED_PREFILL, EngineClosed, Job, Scheduler, Work, plan
from farspan.engine.request import Usage


@st.composite
def works(draw: st.DrawFn) -> list[Work]:
    contexts = draw(st.lists(st.integers(1, 900), min_size=1, max_size=4))
    made = []
    for _ in range(draw(st.integers(1, 40))):
        family = draw(st.integers(-1, len(contexts) - 1))
        question = draw(st.integers(1, 60))
        prefix = contexts[family] if family >= 0 else 0
        made.append(
            Work(
                length=prefix + question if prefix else draw(st.integers(1, 900)),
                prefix=prefix,
                new_tokens=draw(st.integers(1, 64)),
                family=bytes([family]) if prefix else b"",
                sampling=draw(st.integers(0, 1)),
            )
        )
    return made


@given(works(), st.integers(64, 20_000), st.booleans())
def test_plans_keep_their_limits(given_works: list[Work], limit: int, merge: bool) -> None:
    batches = plan(given_works, limit, merge=merge)
    assert sorted(index for batch in batches for index in batch.order) == list(range(len(given_works)))
    for batch in batches:
        rows = [given_works[index] for index in batch.order]
        assert len({row.sampling for row in rows}) == 1
        assert batch.length == max(row.length for row in rows)
        assert batch.new_tokens == max(row.new_tokens for row in rows)
        assert len(rows) == 1 or len(rows) * (batch.length + batch.new_tokens) <= limit
        assert sum(row.length for row in rows) >= (1 - MAX_WASTE) * len(rows) * batch.length - 1e-6
        assert merge or len(batch.groups) == 1
        stop = 0
        for group in batch.groups:
            assert group.start == stop
            stop = group.stop
            members = rows[group.start : group.stop]
            assert {row.prefix for row in members} == {group.prefix}
            assert group.width == max(row.length for row in members) - group.prefix
            if len({row.length for row in members}) > 1:
                assert group.prefix == 0
                assert group.width <= PADDED_PREFILL
        assert stop == len(rows)


def test_questions_on_one_context_are_one_batch() -> None:
    asked = [Work(length=1000 + 20, prefix=1000, new_tokens=8, family=b"a") for _ in range(10)]
    other = [Work(length=1000 + 21, prefix=1000, new_tokens=8, family=b"b") for _ in range(2)]
    (batch,) = plan([*asked, *other], 65536)
    assert [(group.start, group.stop, group.prefix, group.width) for group in batch.groups] == [
        (0, 10, 1000, 20),
        (10, 12, 1000, 21),
    ]


def test_long_and_short_prompts_do_not_share_a_batch() -> None:
    batches = plan([Work(length=100), Work(length=1000), Work(length=110), Work(length=990)], 65536)
    assert sorted(sorted(batch.order) for batch in batches) == [[0, 2], [1, 3]]


def _answer(job: Job) -> None:
    job.future.set_result(Result([], "", "stop", Usage()))


def test_requests_within_the_window_run_together() -> None:
    seen: list[int] = []

    def run(jobs: list[Job]) -> None:
        seen.append(len(jobs))
        for job in jobs:
            _answer(job)

    scheduler = Scheduler(run, window_s=0.3)
    jobs = [Job(Request([1], 1)) for _ in range(5)]
    for job in jobs:
        scheduler.submit([job], complete=False)
    for job in jobs:
        job.future.result(timeout=10)
    assert seen == [5]
    scheduler.close()


def test_a_complete_package_does_not_wait() -> None:
    scheduler = Scheduler(lambda jobs: [_answer(job) for job in jobs] and None, window_s=30.0)
    job = Job(Request([1], 1))
    scheduler.submit([job], complete=True)
    job.future.result(timeout=5)
    scheduler.close()


def test_calls_and_requests_take_turns_on_one_thread() -> None:
    order: list[str] = []
    threads: set[int] = set()

    def run(jobs: list[Job]) -> None:
        order.append("run")
        threads.add(threading.get_ident())
        for job in jobs:
            _answer(job)

    def call() -> object:
        order.append("call")
        threads.add(threading.get_ident())
        return 42

    scheduler = Scheduler(run, window_s=0.05)
    first, second = Job(Request([1], 1)), Job(Request([1], 1))
    scheduler.submit([first], complete=False)
    called: Future[object] = scheduler.call(call)
    scheduler.submit([second], complete=False)
    assert called.result(timeout=10) == 42
    second.future.result(timeout=10)
    assert order == ["run", "call", "run"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    scheduler.close()


def test_an_error_reaches_every_waiting_request_and_not_the_next() -> None:
    def run(jobs: list[Job]) -> None:
        if jobs[0].request.ids[0] == 13:
            raise RuntimeError("unlucky")
        for job in jobs:
            _answer(job)

    scheduler = Scheduler(run, window_s=0.0)
    bad = [Job(Request([13], 1)), Job(Request([14], 1))]
    scheduler.submit(bad, complete=True)
    for job in bad:
        with pytest.raises(RuntimeError, match="unlucky"):
            job.future.result(timeout=10)
    good = Job(Request([1], 1))
    scheduler.submit([good], complete=True)
    assert good.future.result(timeout=10).stop_reason == "stop"
    scheduler.close()


def test_cancelled_requests_are_not_run() -> None:
    ran: list[int] = []
    started, release = threading.Event(), threading.Event()

    def run(jobs: list[Job]) -> None:
        ran.extend(job.request.ids[0] for job in jobs)
        started.set()
        release.wait(10)
        for job in jobs:
            _answer(job)

    scheduler = Scheduler(run, window_s=0.0)
    first, second, third = (Job(Request([index], 1)) for index in (1, 2, 3))
    scheduler.submit([first], complete=True)
    assert started.wait(10)
    scheduler.submit([second, third], complete=True)
    assert second.future.cancel()
    release.set()
    third.future.result(timeout=10)
    assert ran == [1, 3]
    scheduler.close()


def test_closing_fails_what_waits() -> None:
    started, release = threading.Event(), threading.Event()

    def run(jobs: list[Job]) -> None:
        started.set()
        release.wait(10)
        for job in jobs:
            _answer(job)

    scheduler = Scheduler(run, window_s=0.0)
    running = Job(Request([1], 1))
    scheduler.submit([running], complete=True)
    assert started.wait(10)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    while not scheduler._closed:
        time.sleep(0.001)
    with pytest.raises(EngineClosed):
        scheduler.submit([Job(Request([2], 1))], complete=True)
    release.set()
    closing.join(10)
    assert running.future.result(timeout=10).stop_reason == "stop"
    with pytest.raises(EngineClosed, match="closed"):
        scheduler.call(lambda: None)
