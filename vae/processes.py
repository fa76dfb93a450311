r"""Several processes that do one piece of work, started by ``torchrun``, on one machine or many.

Each takes its share; the first one leads: it writes and prints. What belongs to a whole batch is
joined with gradients, so that the result is that of one process with the same batch, up to the
order of sums. Without ``torchrun`` there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vae.data.images.many import cores

__all__ = ["ALONE", "Processes", "joined", "process_count", "processes_here"]

# The quickest waits for the slowest: a million images may have to be decoded meanwhile.
_PATIENCE = timedelta(days=30)

Value = TypeVar("Value")


def process_count() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Those of them that share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that share the work.

    Args:
        rank: The number of this process; 0 is the one that writes and prints.
        count: The number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def program(self) -> list[str]:
        """The words of a command line that start as many processes again."""
        if self.count == 1:
            return ["python"]
        words = ["torchrun", "--nproc-per-node", str(processes_here())]
        machines = os.environ.get("GROUP_WORLD_SIZE", "1")
        if machines != "1":
            # Where they meet is no part of the run: whoever repeats it has machines of their own.
            words += ["--nnodes", machines, "--rdzv-backend", "c10d", "--rdzv-endpoint"]
            words.append("HOST:PORT")
        return words

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch whose size the number of processes divides."""
        return batch if self.count == 1 else batch.chunk(self.count)[self.rank]

    def gather(self, share: Tensor) -> Tensor:
        """Joins the shares of a batch in the order of the processes, with gradients."""
        return share if self.count == 1 else _Gather.apply(share, self)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, without gradient."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
            value /= self.count
        return value

    def largest(self, value: Value) -> Value:
        """The largest of what each process brings."""
        if self.count == 1:
            return value
        said = [value] * self.count
        dist.all_gather_object(said, value)
        return max(said)

    def from_leader(self, value: Value) -> Value:
        """Waits for all processes; returns what the first one says."""
        if self.count == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, 0)
        return said[0]

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Lets the leading process go first, where the others find what it has made."""
        if self.count > 1 and not self.leads:
            dist.barrier()
        try:
            yield
        finally:
            if self.count > 1 and self.leads:
                dist.barrier()


ALONE = Processes()


class _Gather(torch.autograd.Function):
    """Joins shares; each gets back the sum of all processes' gradients for it.

    With the mean over processes that is taken of gradients, the sum gives a term that
    every process adds to its own loss the weight that it has in one process.
    """

    @staticmethod
    def forward(context: Any, share: Tensor, processes: Processes) -> Tensor:  # noqa: ANN401
        context.processes = processes
        shares = [torch.empty_like(share) for _ in range(processes.count)]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return context.processes.share(gradient), None


@contextmanager
def joined(device: str = "cpu") -> Iterator[Processes]:
    """Joins the processes that ``torchrun`` started; yields one alone where it didn't.

    Args:
        device: The kind of device that computes, ``cuda`` or another.
    """
    if process_count() == 1:
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    elif device == "cpu":
        _share_cores()
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _share_cores() -> None:
    """Gives each process its part of the cores, where nobody has said how many it may use.

    torchrun then sets one thread each, which leaves most cores of a larger machine idle; threads
    that are more than the cores wait for each other and are slower by far.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cores() // processes_here()))
