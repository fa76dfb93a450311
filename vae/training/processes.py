r"""Several processes that train one model, started by ``torchrun``.

Each takes its share of every batch. What belongs to the whole batch is joined with gradients, so
that the result is that of one process with the same batch, up to the order of sums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vae.data.bulk import cores

__all__ = ["ALONE", "Processes", "joined"]

# A million images may have to be decoded while the others wait.
_PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that share each batch.

    Args:
        rank: The number of this process; 0 is the one that writes and prints.
        count: The number of processes.
        carrier: Where numbers lie that the processes exchange.
    """

    rank: int = 0
    count: int = 1
    carrier: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def program(self) -> list[str]:
        """The words of a command line that start as many processes again."""
        if self.count == 1:
            return ["python"]
        each = os.environ.get("LOCAL_WORLD_SIZE", str(self.count))
        words = ["torchrun", "--nproc-per-node", each]
        machines = os.environ.get("GROUP_WORLD_SIZE", "1")
        if machines != "1":
            # Where they meet is no part of the run: whoever repeats it has machines of their own.
            words += ["--nnodes", machines, "--rdzv-backend", "c10d", "--rdzv-endpoint"]
            words.append("HOST:PORT")
        return words

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch whose size the number of processes divides."""
        if self.count == 1:
            return batch
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

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

    def largest(self, value: float) -> float:
        """The largest of a number that each process brings."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.carrier)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return float(shared)

    def from_leader(self, value: bytes | None) -> bytes | None:
        """Hands out bytes that only the leading process has."""
        if self.count == 1:
            return value
        size = torch.tensor(-1 if value is None else len(value), device=self.carrier)
        dist.broadcast(size, 0)
        if int(size) < 0:
            return None
        data = torch.empty(int(size), dtype=torch.uint8, device=self.carrier)
        if self.leads:
            data.copy_(torch.frombuffer(bytearray(value), dtype=torch.uint8))
        dist.broadcast(data, 0)
        return bytes(data.cpu().numpy())

    def same(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The leading process's facts, JSON values, in all processes."""
        return json.loads(self.from_leader(json.dumps(facts).encode()))

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
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that ``torchrun`` started; yields one alone where it didn't.

    Args:
        device: The kind of device that trains, ``cuda`` or another.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    carrier = torch.device("cpu")
    if device == "cpu":
        _share_cores()
    if device == "cuda":
        carrier = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(carrier)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), count, carrier)
    finally:
        dist.destroy_process_group()


def _share_cores() -> None:
    """Gives each process its part of the cores, where nobody has said how many it may use.

    torchrun then sets one thread each, which leaves most cores of a larger machine idle; threads
    that are more than the cores wait for each other and are slower by far.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, cores() // beside))
