"""Ranks that send each other tensors: processes of torch.distributed, or threads of one process.

Everything above is built on one operation, an exchange where each rank sends tensors to some ranks and receives from
some. Received bytes are counted. Threads run the very same code in one process: for tests, for simulating a schedule,
and for computing in P parts on one device.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Parcel = Sequence[Tensor]


class Pending:
    """An exchange under way; `wait` gives what arrived, by sender."""

    def __init__(self, finish: Callable[[], dict[int, list[Tensor]]]) -> None:
        self._finish = finish

    def wait(self) -> dict[int, list[Tensor]]:
        """Block until everything has arrived."""
        return self._finish()


class Communicator(ABC):
    """One rank's end of a group.

    Attributes
    ----------
    rank, size : this rank and the number of ranks
    received_bytes : bytes that came from other ranks so far
    """

    rank: int
    size: int
    received_bytes: int = 0

    @abstractmethod
    def start(self, send: Mapping[int, Parcel], receive: Mapping[int, Parcel]) -> Pending:
        """Begin an exchange.

        Parameters
        ----------
        send : tensors for each receiving rank
        receive : for each sending rank, tensors of the shapes and dtypes that it sends; only those are read
        """

    def exchange(self, send: Mapping[int, Parcel], receive: Mapping[int, Parcel]) -> dict[int, list[Tensor]]:
        """Send and receive; what a rank sends itself is handed over."""
        own = list(send[self.rank]) if self.rank in send else None
        others = {peer: parcel for peer, parcel in send.items() if peer != self.rank}
        wanted = {peer: parcel for peer, parcel in receive.items() if peer != self.rank}
        arrived = self.start(others, wanted).wait()
        if own is not None and self.rank in receive:
            arrived[self.rank] = own
        return arrived

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's tensor of this shape and dtype, in the order of ranks."""
        return [parcel[0] for parcel in self.gather_among(range(self.size), [x])]

    def gather_among(self, ranks: Sequence[int], parcel: Parcel) -> list[list[Tensor]]:
        """The parcels, alike in shape, of some ranks that all call this, in the given order."""
        arrived = self.exchange(dict.fromkeys(ranks, parcel), dict.fromkeys(ranks, parcel))
        return [arrived[rank] for rank in ranks]

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, equal on all of them."""
        return torch.stack(self.all_gather(x)).sum(0)

    def _count(self, parcels: Mapping[int, Parcel]) -> None:
        self.received_bytes += sum(x.numel() * x.element_size() for parcel in parcels.values() for x in parcel)


class ProcessCommunicator(Communicator):
    """Ranks are the processes of a torch.distributed group, gloo or NCCL; only sends and receives are used."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def start(self, send: Mapping[int, Parcel], receive: Mapping[int, Parcel]) -> Pending:
        buffers = {peer: [torch.empty_like(x).contiguous() for x in parcel] for peer, parcel in receive.items()}
        outgoing = [(peer, x.detach().contiguous()) for peer, parcel in sorted(send.items()) for x in parcel]
        operations = [dist.P2POp(dist.isend, x, self._global(peer), self.group) for peer, x in outgoing]
        operations += [
            dist.P2POp(dist.irecv, x, self._global(peer), self.group)
            for peer, parcel in sorted(buffers.items())
            for x in parcel
        ]
        # one batch, so that no order of ranks can deadlock
        works = dist.batch_isend_irecv(operations) if operations else []

        def finish() -> dict[int, list[Tensor]]:
            for work in works:
                work.wait()
            outgoing.clear()
            self._count(buffers)
            return buffers

        return Pending(finish)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


class PeerFailed(RuntimeError):
    """A rank waited for another that had failed."""


# what ranks that are threads have sent each other, by sender and receiver; None from one that failed
Mail = dict[tuple[int, int], "queue.Queue[list[Tensor] | None]"]


class ThreadCommunicator(Communicator):
    """Ranks are threads of this process; made by `run_ranks`."""

    def __init__(self, rank: int, mail: Mail, size: int) -> None:
        self.rank = rank
        self.size = size
        self._mail = mail
        # parcels match in the order in which exchanges began, whatever the order of waiting
        self._due: dict[int, list[list[list[Tensor]]]] = {}

    def start(self, send: Mapping[int, Parcel], receive: Mapping[int, Parcel]) -> Pending:
        for peer, parcel in send.items():
            self._mail[self.rank, peer].put([x.detach().clone() for x in parcel])

        slots: dict[int, list[list[Tensor]]] = {peer: [] for peer in receive}
        for peer, slot in slots.items():
            self._due.setdefault(peer, []).append(slot)

        def finish() -> dict[int, list[Tensor]]:
            for peer, slot in slots.items():
                while not slot:
                    parcel = self._mail[peer, self.rank].get()
                    if parcel is None:
                        raise PeerFailed(f"rank {self.rank} waits for rank {peer}, which failed")
                    self._due[peer].pop(0).append(parcel)
            arrived = {peer: slot[0] for peer, slot in slots.items()}
            self._count(arrived)
            return arrived

        return Pending(finish)


Group = Communicator | dist.ProcessGroup | None


def communicator(group: Group) -> Communicator:
    """The end of this rank in a group; None is all processes of torch.distributed, or one lone rank without it."""
    if isinstance(group, Communicator):
        return group
    if group is None and not (dist.is_available() and dist.is_initialized()):
        return ThreadCommunicator(0, {}, 1)
    return ProcessCommunicator(group)


def run_ranks(size: int, work: Callable[[Communicator], T]) -> list[T]:
    """Run `work` as `size` ranks, each a thread of this process; the results in the order of ranks.

    Raises
    ------
    The first error of any rank.
    """
    mail: Mail = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    grad = torch.is_grad_enabled()

    def run(rank: int) -> None:
        try:
            with torch.set_grad_enabled(grad):
                results[rank] = work(ThreadCommunicator(rank, mail, size))
        except BaseException as error:
            errors[rank] = error
            for other in range(size):
                mail[rank, other].put(None)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        # the error of a rank that waited for a failed one says less
        raise next((e for e in errors.values() if not isinstance(e, PeerFailed)), next(iter(errors.values())))
    return [results[rank] for rank in range(size)]
