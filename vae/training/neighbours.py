r"""Processes of one machine that share memory, and wait for each other.

Gloo, with which torch joins processes on CPUs, sends numbers through sockets, from threads that
must be woken each time: for a small network that takes longer than the rest of its step.
Neighbours write where all can read, and say so with a byte, which also orders the memory of one
before the other's.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from vae.training.processes import Processes

__all__ = ["Neighbours", "neighbours_of", "room_for"]

# So many seconds another process is waited for without sleep: to be woken takes a tenth of that.
_BRIEFLY = 1e-3
# The steps of a network that needs more bytes than these take so long that sending is nothing.
_MOST_BYTES = 2**30
# Floats of a cache line: what one process writes should not share one with what another does.
_LINE = 16


class Neighbours:
    """Memory that processes on one machine share; made by :func:`neighbours_of`.

    Args:
        rank: The number of this process.
        count: The number of processes.
        folder: Where they meet; nothing of it is needed once all are connected.
        size: The floats of the memory.

    Raises:
        OSError: If the memory can't be opened.
    """

    def __init__(self, rank: int, count: int, folder: Path, size: int) -> None:
        self.rank, self.count, self.folder = rank, count, folder
        self._memory = torch.from_file(
            str(folder / "memory"), shared=True, size=size, dtype=torch.float32
        )
        self._taken = 0
        self._brought, self._odd = self.place((2, count)), False
        # A door for those of a higher rank.
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(str(folder / str(rank)))
        self._door.listen(count)
        self._lines: list[socket.socket] = []

    def connect(self) -> None:
        """Calls those of a lower rank, all of which are there, and lets the others in."""
        for other in range(self.rank):
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.connect(str(self.folder / str(other)))
            self._lines.append(line)
        # Who is who doesn't matter.
        self._lines += [self._door.accept()[0] for _ in range(self.rank + 1, self.count)]
        self._door.close()
        for line in self._lines:
            line.setblocking(False)

    def place(self, shape: Sequence[int]) -> Tensor:
        """Zeros of a shape, float32, that all share; each asks for the same shapes in turn."""
        zeros = self._memory[self._taken :][: _product(shape)].view(torch.Size(shape))
        self._taken += room_for(shape)
        return zeros

    def meet(self) -> None:
        """Waits until all are here; what each has written before can then be read by all.

        Raises:
            RuntimeError: If another of the processes has ended.
        """
        try:
            for line in self._lines:
                line.send(b".")
            for line in self._lines:
                _hear(line)
        except OSError as error:
            raise RuntimeError("another of the processes that train together ended") from error

    def each(self, value: float | Tensor) -> Tensor:
        """The numbers that the processes bring, with shape (P), until the call after the next.

        Raises:
            RuntimeError: If another of the processes has ended.
        """
        # Two rows in turn: who writes to one again has met all since they read it.
        self._odd = not self._odd
        row = self._brought[int(self._odd)]
        row[self.rank] = value
        self.meet()
        return row

    def close(self) -> None:
        """Lets the others know that this process has left."""
        for line in self._lines:
            line.close()


def neighbours_of(processes: Processes, size: int) -> Neighbours | None:
    """Lets the processes of one machine meet; none where one of them finds no memory to share.

    Args:
        processes: All that train together.
        size: The floats that they will share, each place rounded up by :func:`room_for`.
    """
    size += room_for((2, processes.count))  # for the numbers that each brings
    folder = _folder(4 * size) if processes.leads else None
    where = processes.from_leader(None if folder is None else str(folder).encode())
    found = None
    try:
        if where is not None:
            with suppress(OSError, RuntimeError):
                found = Neighbours(processes.rank, processes.count, Path(where.decode()), size)
        if processes.largest(found is None):
            return None
        found.connect()
        processes.largest(0)
    finally:
        # What is open stays open, and nothing stays behind, however the processes end.
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def room_for(shape: Sequence[int]) -> int:
    """The floats that a place of a shape takes."""
    return -(-_product(shape) // _LINE) * _LINE


def _product(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _hear(line: socket.socket) -> None:
    """Waits until the process at the other end says that it is here."""
    patient = time.perf_counter() + _BRIEFLY
    while True:
        try:
            word = line.recv(1)
        except BlockingIOError:
            if time.perf_counter() > patient:
                select.select([line], [], [])
            continue
        if not word:
            raise ConnectionError("the other end is closed")
        return


def _folder(room: int) -> Path | None:
    """A folder in memory with a file of so many bytes; none where there is no room for it."""
    if room > _MOST_BYTES:
        return None
    folder = None
    try:
        # Not every system has this place; those that do have all else that is needed.
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        with (folder / "memory").open("wb") as file:
            # A file with holes would end the program when they cannot be filled.
            os.posix_fallocate(file.fileno(), 0, room)
    except OSError:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder
