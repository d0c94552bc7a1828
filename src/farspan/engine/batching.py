"""Which requests run together, and the one thread that runs them.

`plan` is arithmetic on lengths and can be read and tested without a model. `Scheduler` owns the worker thread: it
collects requests for a few milliseconds and hands them on; what is done with them is the engine's business.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from farspan.engine.request import Request, Result
from farspan.errors import FarspanError

MAX_WASTE = 0.25
PADDED_PREFILL = 256


class EngineClosed(FarspanError):
    """A request to an engine that was closed."""


@dataclass(frozen=True)
class Work:
    """What planning needs to know of a request.

    length : tokens of the prompt
    prefix : how many of them are a context prefilled apart, 0 for none
    new_tokens : tokens to generate at most
    family : name of that context
    sampling : requests share a batch only if equal in this
    """

    length: int
    prefix: int = 0
    new_tokens: int = 1
    family: bytes = b""
    sampling: Hashable = None


@dataclass(frozen=True)
class Group:
    """Neighbouring rows `start:stop` of a batch whose last `width` prompt tokens are read in one forward."""

    start: int
    stop: int
    prefix: int
    width: int


@dataclass(frozen=True)
class Batch:
    """Requests that generate together.

    order : index of the request in each row
    groups : the prefills, covering all rows in order
    length : tokens of the longest prompt
    new_tokens : tokens that the row with the largest limit may generate
    """

    order: tuple[int, ...]
    groups: tuple[Group, ...]
    length: int
    new_tokens: int


def plan(works: Sequence[Work], max_batch_tokens: int, *, merge: bool = True) -> list[Batch]:
    """Divide requests into batches.

    A batch never exceeds `rows * (longest prompt + largest limit) <= max_batch_tokens`, a single request excepted,
    and wastes at most a quarter of its prompt slots on padding. Long prompts are prefilled only beside prompts of
    exactly their length: an attention lever that works in blocks would otherwise see other blocks in other company.

    Parameters
    ----------
    works : one a request
    max_batch_tokens : limit on the slots of a batch
    merge : whether rows that were prefilled apart can go on together

    Returns
    -------
    list of Batch; each request stands in exactly one
    """
    longest: dict[bytes, int] = {}
    for work in works:
        longest[work.family] = max(longest.get(work.family, 0), work.length)

    def neighbourhood(index: int) -> tuple[int, bytes, int, int]:
        work = works[index]
        length = longest[work.family] if work.prefix else work.length
        return length, work.family if work.prefix else b"", work.prefix, work.length

    by_sampling: dict[Hashable, list[int]] = {}
    for index, work in enumerate(works):
        by_sampling.setdefault(work.sampling, []).append(index)
    batches: list[Batch] = []
    for indices in by_sampling.values():
        rows: list[int] = []
        for index in sorted(indices, key=neighbourhood):
            if rows and not _fits([works[row] for row in (*rows, index)], max_batch_tokens):
                batches += _close(works, rows, merge)
                rows = []
            rows.append(index)
        batches += _close(works, rows, merge)
    return batches


def _fits(works: Sequence[Work], max_batch_tokens: int) -> bool:
    length = max(work.length for work in works)
    slots = len(works) * (length + max(work.new_tokens for work in works))
    return slots <= max_batch_tokens and _waste([work.length for work in works]) <= MAX_WASTE


def _waste(lengths: Sequence[int]) -> float:
    return 1.0 - sum(lengths) / (len(lengths) * max(lengths))


def _close(works: Sequence[Work], rows: Sequence[int], merge: bool) -> list[Batch]:
    order = sorted(rows, key=lambda row: (works[row].prefix, works[row].length, works[row].family))
    groups: list[list[int]] = []
    for row in order:
        if groups and _together([works[other] for other in groups[-1]], works[row]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [_batch(works, groups)] if merge else [_batch(works, [group]) for group in groups]


def _together(group: Sequence[Work], work: Work) -> bool:
    if work.prefix or group[0].prefix or work.length > PADDED_PREFILL:
        return (work.prefix, work.length) == (group[0].prefix, group[0].length)
    return _waste([*(other.length for other in group), work.length]) <= MAX_WASTE


def _batch(works: Sequence[Work], groups: Sequence[Sequence[int]]) -> Batch:
    order = [row for group in groups for row in group]
    built: list[Group] = []
    for group in groups:
        start = built[-1].stop if built else 0
        prefix = works[group[0]].prefix
        width = max(works[row].length for row in group) - prefix
        built.append(Group(start, start + len(group), prefix, width))
    return Batch(
        order=tuple(order),
        groups=tuple(built),
        length=max(works[row].length for row in order),
        new_tokens=max(works[row].new_tokens for row in order),
    )


@dataclass
class Job:
    """A request on its way: where its result goes, and when it came."""

    request: Request
    future: Future[Result] = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


@dataclass
class _Package:
    jobs: list[Job]
    complete: bool


@dataclass
class _Call:
    function: Callable[[], object]
    future: Future[object]


class Scheduler:
    """One worker thread, started with the first request.

    Parameters
    ----------
    run : given jobs that wait together; sets all their futures
    window_s : how long the first of them waits for company, seconds
    """

    def __init__(self, run: Callable[[list[Job]], None], window_s: float) -> None:
        self._run = run
        self._window = window_s
        self._waiting: queue.Queue[_Package | _Call | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, jobs: list[Job], *, complete: bool) -> None:
        """Hand over jobs; `complete` says that no company is expected, so that they need not wait."""
        self._put(_Package(jobs, complete))

    def call(self, function: Callable[[], object]) -> Future[object]:
        """Run any function on the worker thread, after what waits already."""
        call = _Call(function, Future())
        self._put(call)
        return call.future

    def close(self) -> None:
        """Let the work at hand finish, fail what waits behind it, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()
        while True:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return
            for future in _futures(item):
                future.set_exception(EngineClosed("the engine was closed before this request ran"))

    def _put(self, item: _Package | _Call) -> None:
        with self._lock:
            if self._closed:
                raise EngineClosed("this engine is closed; make a new one")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="farspan-engine", daemon=True)
                self._thread.start()
            self._waiting.put(item)

    def _work(self) -> None:
        item = self._waiting.get()
        while item is not None:
            following: _Package | _Call | None = None
            taken = False
            if isinstance(item, _Call):
                if item.future.set_running_or_notify_cancel():
                    _settle(item)
            else:
                jobs, taken, following = self._gather(item)
                jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
                if jobs:
                    self._run_all(jobs)
            item = following if taken else self._waiting.get()

    def _gather(self, first: _Package) -> tuple[list[Job], bool, _Package | _Call | None]:
        """Jobs that wait together, and the first thing behind them if it was taken from the queue already."""
        jobs, complete = list(first.jobs), first.complete
        deadline = time.perf_counter() + self._window
        while True:
            try:
                item = (
                    self._waiting.get_nowait()
                    if complete
                    else self._waiting.get(timeout=max(0.0, deadline - time.perf_counter()))
                )
            except queue.Empty:
                return jobs, False, None
            if not isinstance(item, _Package):
                return jobs, True, item
            jobs += item.jobs
            complete = complete or item.complete

    def _run_all(self, jobs: list[Job]) -> None:
        try:
            self._run(jobs)
        except BaseException as error:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)


def _settle(call: _Call) -> None:
    try:
        call.future.set_result(call.function())
    except BaseException as error:
        call.future.set_exception(error)


def _futures(item: _Package | _Call | None) -> list[Future[Result] | Future[object]]:
    if item is None:
        return []
    return [item.future] if isinstance(item, _Call) else [job.future for job in item.jobs]
