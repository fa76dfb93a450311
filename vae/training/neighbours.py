r"""The mean gradient over processes of one machine, through memory that they share.

Gloo, with which torch joins processes on CPUs, sends gradients through sockets, from threads that
must be woken each time: for a small network that takes longer than the rest of its step.
Neighbours need not send them. Each writes its gradient where all can read it, says so with a byte,
which also orders the memory of one before the other's, and adds up by itself; all add in the same
order, so all get the same.
"""

# No postponed annotations: torch looks at those of a hook, and wants the class.
import os
import select
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vae.training.processes import Processes

__all__ = ["data_parallel", "neighbours_of"]

# So many seconds another process is waited for without sleep: to be woken takes a tenth of that.
_BRIEFLY = 1e-3
# The steps of a network that needs more bytes than these take so long that sending is nothing.
_MOST_BYTES = 2**30


class Neighbours:
    """Takes means with processes on the same machine; made by :func:`neighbours_of`.

    Args:
        rank: The number of this process.
        count: The number of processes.
        folder: Where they meet; nothing of it is needed once all are connected.
        size: The most elements of a mean.

    Raises:
        OSError: If the memory can't be opened.
    """

    def __init__(self, rank: int, count: int, folder: Path, size: int) -> None:
        self.rank, self.count, self.folder = rank, count, folder
        self._places = torch.from_file(
            str(folder / "places"), shared=True, size=2 * count * size, dtype=torch.float32
        ).view(2, count, size)
        self._odd = False
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

    def mean_(self, values: Tensor) -> None:
        """Replaces float32 values by their mean over the processes.

        Args:
            values: With the same shape in each process, on the CPU.

        Raises:
            RuntimeError: If another of the processes has ended.
        """
        # Two places in turn: who writes again has heard from all that they wrote the last time,
        # so that nobody still reads the time before that.
        self._odd = not self._odd
        place, flat = self._places[int(self._odd), :, : values.numel()], values.view(-1)
        torch.div(flat, self.count, out=place[self.rank])
        try:
            for line in self._lines:
                line.send(b".")
            for line in self._lines:
                _hear(line)
        except OSError as error:
            raise RuntimeError("another of the processes that train together ended") from error
        # One by one: torch's own sum over rows takes four times as long.
        torch.add(place[0], place[1], out=flat)
        for other in place[2:]:
            flat += other

    def hook(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Takes the mean of a bucket, as ``DistributedDataParallel`` asks its hooks to."""
        self.mean_(bucket.buffer())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done


def data_parallel(module: nn.Module, processes: Processes) -> DistributedDataParallel:
    """Makes several processes train one module, each with its share of a batch.

    Args:
        module: Each process's own, with the same weights.
        processes: All that train together.
    """
    size = sum(weight.numel() for weight in module.parameters())
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(processes.count)
    if on_one_machine and next(module.parameters()).device.type == "cpu":
        neighbours = neighbours_of(processes, size)
        # Without memory to share, gradients are sent after all.
        if neighbours is not None:
            # One bucket, since who takes a mean must wait for the others.
            whole = DistributedDataParallel(
                module, gradient_as_bucket_view=True, bucket_cap_mb=size * 4 / 2**20 + 1
            )
            whole.register_comm_hook(None, neighbours.hook)
            return whole
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def neighbours_of(processes: Processes, size: int) -> Neighbours | None:
    """Lets the processes of one machine meet; none where one of them finds no memory to share.

    Args:
        processes: All that train together.
        size: The most elements of a mean.
    """
    folder = _folder(processes.count, size) if processes.leads else None
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


def _hear(line: socket.socket) -> None:
    """Waits until the process at the other end says that it has written."""
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


def _folder(count: int, size: int) -> Path | None:
    """A folder in memory with room for two gradients of each process; none where there is none."""
    room = 2 * count * size * 4
    if room > _MOST_BYTES:
        return None
    folder = None
    try:
        # Not every system has this place; those that do have all else that is needed.
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        with (folder / "places").open("wb") as file:
            # A file with holes would end the program when they cannot be filled.
            os.posix_fallocate(file.fileno(), 0, room)
    except OSError:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder
