r"""One update of the weights by several processes of one machine, each of which does a part of it.

``DistributedDataParallel`` gives each process a copy of the weights and all of the mean gradient,
with which each then does the same work. Neighbours need one copy: each weight, with its average
and its moments, lies in memory that all share, and has one owner, who alone takes the mean of its
gradients and moves it. So each process hands out the gradients of the others' weights only, and
nobody sends weights. As in ZeRO, but without copies.

References:
    | ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (Rajbhandari et al.,
    | 2020), https://arxiv.org/abs/1910.02054
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from vae.training.neighbours import Neighbours, neighbours_of, room_for
from vae.training.processes import Processes
from vae.training.state import RunState

__all__ = ["SharedUpdate", "owners_of", "share_update"]


class SharedUpdate:
    """Moves a run's tensors to memory that its processes share.

    Args:
        state: Each process's own, equal to the others'.
        neighbours: The processes.
    """

    def __init__(self, state: RunState, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        owners = owners_of([weight.numel() for weight in state.parameters], neighbours.count)
        self._mine: list[tuple[torch.nn.Parameter, list[Tensor]]] = []
        self._others: list[tuple[torch.nn.Parameter, Tensor]] = []
        for weight, owner in zip(state.parameters, owners, strict=True):
            # A place for the gradient of each process; nobody needs the owner's.
            givers = [rank for rank in range(neighbours.count) if rank != owner]
            places = {rank: neighbours.place(weight.shape) for rank in givers}
            if owner == neighbours.rank:
                self._mine.append((weight, list(places.values())))
            else:
                self._others.append((weight, places[neighbours.rank]))
        state.move_to(self._place, [owner == neighbours.rank for owner in owners])
        neighbours.meet()

    @torch.no_grad()
    def take_means_(self) -> None:
        """Makes the gradients of this process's weights the mean, and drops the others.

        Raises:
            RuntimeError: If another of the processes has ended.
        """
        share = 1 / self._neighbours.count
        for weight, place in self._others:
            torch.mul(weight.grad, share, out=place)
            weight.grad = None
        self._neighbours.meet()
        for weight, (first, *others) in self._mine:
            torch.add(first, weight.grad, alpha=share, out=weight.grad)
            for other in others:
                weight.grad += other

    def norm(self, norm: Tensor) -> Tensor:
        """The norm of the whole gradient, from that of each process's part."""
        return torch.linalg.vector_norm(self._neighbours.each(norm))

    def largest(self, value: float) -> float:
        """The largest of a number that each process brings; no gloo, hence no sleep."""
        return float(self._neighbours.each(value).max())

    def end(self) -> None:
        """Waits until each has moved its weights."""
        self._neighbours.meet()

    def close(self) -> None:
        """Leaves the others, who are told so if they still wait for this process."""
        self._neighbours.close()

    def _place(self, value: Tensor) -> Tensor:
        place = self._neighbours.place(value.shape)
        if self._neighbours.rank == 0:
            place.copy_(value)
        return place


def share_update(state: RunState, processes: Processes) -> SharedUpdate | None:
    """Shares the update among processes that are all on one machine and train on its CPU.

    Args:
        state: Each process's own, equal to the others'.
        processes: All that train together.

    Returns:
        The shared update; none for a process alone, for others, and without memory to share.
    """
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(processes.count)
    if processes.count == 1 or not on_one_machine or state.device.type != "cpu":
        return None
    # Gradients of all but the owner; the weight, its average and two moments, and its steps.
    room = sum(
        (processes.count + 3) * room_for(weight.shape) + room_for(())
        for weight in state.parameters
    )
    neighbours = neighbours_of(processes, room)
    return neighbours and SharedUpdate(state, neighbours)


def owners_of(sizes: Sequence[int], count: int) -> list[int]:
    """Gives each weight to a process so that all have about equally many numbers to move."""
    loads, owners = [0] * count, [0] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        owners[number] = loads.index(min(loads))
        loads[owners[number]] += sizes[number]
    return owners
