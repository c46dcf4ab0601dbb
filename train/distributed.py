"""World: the processes that share a run, and what they tell each other. One process alone is a world of one.

torchrun (or whatever sets its variables) starts the processes, torch.distributed carries the messages: gloo for
everything small and for gradients in main memory, NCCL for gradients where every process has a GPU of its own.
Several processes may share a GPU; their gradients then go through gloo.

Plain collectives instead of DistributedDataParallel: its hooks belong to one forward and one backward of the wrapped
module on every process, whereas here the GHN runs once for each part of a meta-batch, a process may have no part at
all, and what the sum is divided by is known only after all networks have run.
"""

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ghn.errors import GHNError

T = TypeVar("T")
CPU = torch.device("cpu")
RESUME = "the run goes on from its last checkpoint with --resume, with any number of processes"


class WorldError(GHNError):
    """Processes that lost each other, or that were given different things to do."""


@dataclass(frozen=True, eq=False)
class World:
    """This process among all. rank: its number, from 0. size: how many there are. device: where it calculates.

    direct: the NCCL group that tensors on the device go through; None where they take the way over main memory.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    direct: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and writes."""
        return self.rank == 0

    def mine(self, parts: int) -> range:
        """The parts, of this many, that this process takes."""
        return range(self.rank, parts, self.size)

    def merged(self, values: Tensor) -> Tensor:
        """The sum over all processes of a float64 vector, of which each entry is an integer everywhere or zero in all
        but one process: exact, so that the order does not matter."""
        if self.size > 1:
            with self._together():
                dist.all_reduce(values)
        return values

    def ordered_sum(self, parts: int, length: int, mine: Sequence[Tensor]) -> Tensor:
        """part 0 + part 1 + ... in this order, (length,), the same bits in every process and for any number of them.

        mine: those of `self.mine(parts)`, which may be overwritten. Every process sums up one slice of all parts, then
        the slices are handed round: for as many parts as processes the traffic of an all_reduce, whose order of
        summation would depend on the number of processes.
        """
        if self.size == 1:
            for part in mine[1:]:
                mine[0].add_(part)
            return mine[0]
        slots, width = -(-parts // self.size), -(-length // self.size)
        where = self.device if self.direct else CPU
        sent = torch.zeros(slots, self.size * width, device=where)
        for slot, part in enumerate(mine):
            sent[slot, :length] = part
        sent = sent.view(slots, self.size, width).transpose(0, 1).contiguous()
        received = torch.empty_like(sent)  # (process, slot, width): my slice of everybody's parts
        with self._together():
            dist.all_to_all_single(received, sent, group=self.direct)
        total = received[0, 0]
        for part in range(1, parts):
            total.add_(received[part % self.size, part // self.size])
        slices = torch.empty(self.size, width, device=where)
        with self._together():
            dist.all_gather(list(slices), total, group=self.direct)
        return slices.view(-1)[:length].to(self.device)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process. Where it raises a GHNError, the others end without a word."""
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except GHNError as error:
                answer[1] = error
        with self._together():
            dist.broadcast_object_list(answer)
        if answer[1] is None:
            return answer[0]
        if self.first:
            raise answer[1]
        raise SystemExit(2)

    def agree(self, what: str, value: str) -> None:
        """Raises WorldError unless the value is the same in all processes: what would else be found out too late."""
        found = self._gathered(value)
        if len(set(found)) > 1:
            told = "; ".join(f"process {rank}: {each}" for rank, each in enumerate(found))
            raise WorldError(f"the processes do not agree on {what} ({told}); start them all with the same")

    def _gathered(self, value: T) -> list[T]:
        found: list[Any] = [value] * self.size
        if self.size > 1:
            with self._together():
                dist.all_gather_object(found, value)
        return found

    @contextmanager
    def _together(self) -> Generator[None]:
        """Around a collective: its failure means that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            raise WorldError(
                f"process {self.rank} of {self.size} lost the others, one of which has ended; "
                f"what it said, if anything, stands above; {RESUME} ({_reason(error)})"
            ) from error


ALONE = World()


@contextmanager
def world(device: str | None = None) -> Generator[World]:
    """The world of this process: that of torchrun's variables, where they are set, else its own.

    device: 'cpu', 'cuda' (processes of a machine take its GPUs in turn) or 'cuda:1'; by default a GPU where there is
    one. Raises GHNError on a device that does not exist, WorldError where the processes do not find each other.
    """
    here = chosen_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if "RANK" not in os.environ:
        yield World(device=here)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        dist.init_process_group("gloo", rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise WorldError(f"process {rank} of {size} does not find the others: {error}; start them anew") from error
    try:
        with _told_to_end(rank, size):
            yield _with_direct_group(World(rank, size, here))
    finally:
        dist.destroy_process_group()


def leave(here: World) -> None:
    """Ends a process of several at once, with exit code 0, after all its work; one process alone returns.

    Gloo's threads may hold the last reference to a tensor that Python knows. A thread that lets go of one while the
    interpreter shuts down is ended in a way that aborts the process: a run that went well would look failed.
    """
    if here.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def balanced(costs: Sequence[int], parts: int) -> list[list[int]]:
    """Places 0 ... len(costs) - 1 divided into parts of about equal cost, the dearest first in each.

    Each goes to the part that is cheapest so far: at most a third above the best division. No part is empty: there are
    fewer where there are fewer places.
    """
    parts = min(parts, len(costs))
    sums = [0] * parts
    found: list[list[int]] = [[] for _ in range(parts)]
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        part = sums.index(min(sums))
        sums[part] += costs[place]
        found[part].append(place)
    return found


def chosen_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device of this name; None: a GPU where there is one. Raises GHNError where it does not exist.

    Processes of a machine take its GPUs in turn; with more processes than GPUs, several share one.
    """
    count = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if count else "cpu"))
    except RuntimeError as error:
        raise GHNError(f"no device {name!r}; give cpu, cuda or cuda:NUMBER") from error
    if device.type == "cuda" and device.index is None and count:
        return torch.device("cuda", local_rank % count)
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise GHNError(f"no device {name!r} here: there are a CPU and {count} GPUs; give cpu, cuda or cuda:NUMBER")
    return device


def _with_direct_group(alone: World) -> World:
    """NCCL refuses two processes on one GPU: it is used only where no process of any machine shares its own."""
    places = alone._gathered(f"{socket.gethostname()} {alone.device}")
    if len(set(places)) < len(places) or not all("cuda" in place.split()[-1] for place in places):
        return alone
    return World(alone.rank, alone.size, alone.device, dist.new_group(backend="nccl"))


def _reason(error: RuntimeError) -> str:
    """What gloo or NCCL says has happened, without its place in their sources and their advice."""
    said = str(error).strip() or type(error).__name__
    return re.sub(r"\[[^\]]*\.\w+:\d+\] *", "", said.splitlines()[0]).split(". ")[0]


@contextmanager
def _told_to_end(rank: int, size: int) -> Generator[None]:
    """Within it, the signal by which a launcher ends the processes that are left becomes an error with words."""

    def end(number: int, frame: FrameType | None) -> None:
        raise WorldError(
            f"process {rank} of {size} was told to end (SIGTERM), as the launcher does when another process has "
            f"ended; what that one said, if anything, stands above; {RESUME}"
        )

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
