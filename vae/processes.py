r"""Several processes that do one piece of work, started by ``torchrun``, on one machine or many.

Each takes its share; the first one leads: it writes and prints. Without ``torchrun`` there is one
process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "agree",
    "collect",
    "count",
    "count_here",
    "gather",
    "joined",
    "leader_first",
    "leads",
    "mean",
    "program",
    "rank",
    "share",
]

# The quickest waits for the slowest: a million images may have to be decoded meanwhile.
_PATIENCE = timedelta(days=30)

Value = TypeVar("Value")


@contextmanager
def joined() -> Iterator[None]:
    """Meets the other processes; tensors go between CPUs by gloo, between GPUs by NCCL."""
    if count() == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """The number of processes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_here() -> int:
    """Those of them that share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def leads() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def program() -> list[str]:
    """The words of a command line that start as many processes again."""
    if count() == 1:
        return ["python"]
    words = ["torchrun", "--nproc-per-node", str(count_here())]
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    if machines != "1":
        # Where they meet is no part of the run: whoever repeats it has machines of their own.
        words += ["--nnodes", machines, "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:PORT"]
    return words


def share(batch: Tensor) -> Tensor:
    """This process's rows of a batch whose size the number of processes divides."""
    return batch.chunk(count())[rank()]


def gather(part: Tensor) -> Tensor:
    """Joins the shares of a batch in the order of the processes, with gradients."""
    return part if count() == 1 else _Gather.apply(part)


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, without gradient."""
    if count() > 1:
        value = value.detach() / count()
        dist.all_reduce(value)
    return value


def agree(value: Value) -> Value:
    """Waits for all processes; returns what the first one says."""
    if count() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, 0)
    return said[0]


def collect(value: Value) -> list[Value]:
    """What each process says, in their order."""
    if count() == 1:
        return [value]
    said = [value] * count()
    dist.all_gather_object(said, value)
    return said


@contextmanager
def leader_first() -> Iterator[None]:
    """Lets the leading process go first, where the others find what it has made."""
    if count() > 1 and not leads():
        dist.barrier()
    try:
        yield
    finally:
        if count() > 1 and leads():
            dist.barrier()


class _Gather(torch.autograd.Function):
    """Joins shares; each gets back the sum of all processes' gradients for it.

    With the mean over processes that is taken of gradients, the sum gives a term that every
    process adds to its own loss the weight that it has in one process.
    """

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:  # noqa: ANN401
        parts = [torch.empty_like(part) for _ in range(count())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return share(gradient)
