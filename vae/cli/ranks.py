"""One command on several processes or machines, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

__all__ = ["agree", "count", "joined", "on_this_machine"]


def count() -> int:
    """The number of processes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def on_this_machine() -> int:
    """Those of them that share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextmanager
def joined() -> Iterator[int]:
    """Meets the other processes.

    Yields:
        This one's number, from 0.
    """
    if count() == 1:
        yield 0
        return
    import torch.distributed as distributed

    # The quickest waits for the slowest, however long that takes.
    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


def agree(value: int) -> int:
    """Waits for all processes; returns what the first one says."""
    if count() == 1:
        return value
    import torch
    import torch.distributed as distributed

    said = torch.tensor([value])
    distributed.barrier()
    distributed.broadcast(said, 0)
    return int(said)
