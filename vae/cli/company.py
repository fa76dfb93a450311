r"""How a program's threads wait for each other: briskly while alone, politely in company.

A step of a small network is a hundred short operations, each shared by threads that wait for the
last of them. GNU's OpenMP, which torch uses on Linux, lets them spin while they wait: the fastest
way by a third as long as each thread has a core to itself. Beside another busy program they spin
on the very core that the last one needs, and a step takes ten times as long, or fifty.

How long they spin is fixed when a program starts, but for one case: where a program has more such
threads than the machine has cores, they go to sleep almost at once, and this is looked up anew at
each wait. So an idle thread with a team of its own, a guest, is a switch. It changes no number.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vae.data.bulk import cores

__all__ = ["Company", "considerate", "seconds_waited"]

# Others are noticed within so many seconds, before whose end few steps can be lost.
_EVERY = 0.25
# The seconds that threads wait for a core, for each second that passes: 0.5 to 1 beside a busy
# program, and alone a tenth or two at times, when the system has something to do.
_CROWDED, _CALM = 0.4, 0.15
# So long it must have been calm before guests leave; longer each time that they had to come back.
_SHORTEST, _LONGEST = 2.0, 60.0
# torch gives each thread of a team at least so many elements of an operation.
_ELEMENTS = 2**15


@contextmanager
def considerate() -> Iterator[None]:
    """Within it, the threads of this program wait politely whenever others want the cores.

    It does nothing where the system doesn't tell how long a thread waited for a core.
    """
    if seconds_waited() is None:
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended,), name="company", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


class Company:
    """Decides from time to time whether guests are needed.

    Args:
        invite: Makes the threads wait politely; returns what ends that.
    """

    def __init__(self, invite: Callable[[], Callable[[], None]] | None = None) -> None:
        self._invite = invite or _guests
        self._dismiss: Callable[[], None] | None = None
        self._calm, self._patience = 0.0, _SHORTEST

    @property
    def polite(self) -> bool:
        """Whether the threads wait politely."""
        return self._dismiss is not None

    def look(self, share: float, seconds: float) -> None:
        """Takes notice of a stretch of time.

        Args:
            share: How long this program's threads waited for a core, for each second of it.
            seconds: How long it was.
        """
        if share > _CROWDED and self._dismiss is None:
            self._dismiss = self._invite()
        self._calm = self._calm + seconds if share < _CALM else 0.0
        if self._calm >= self._patience and self._dismiss is not None:
            self.part()
            self._patience = min(2 * self._patience, _LONGEST)

    def part(self) -> None:
        """Lets the threads wait as they are used to."""
        if self._dismiss is not None:
            self._dismiss()
        self._dismiss = None


def seconds_waited() -> float | None:
    """How long this program's threads, those that live, have waited for a core; or None."""
    waited = 0
    try:
        for thread in os.listdir("/proc/self/task"):
            # A thread may end between the two.
            with (
                suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/self/task/{thread}/schedstat") as file,
            ):
                waited += int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return waited / 1e9


def _watch(ended: threading.Event) -> None:
    company = Company()
    waited, clock = seconds_waited(), time.monotonic()
    while not ended.wait(_EVERY):
        before, waited = waited, seconds_waited()
        since, clock = clock, time.monotonic()
        # Before torch is there nobody spins.
        if None not in (before, waited) and "torch" in sys.modules:
            company.look((waited - before) / (clock - since), clock - since)
    company.part()


def _guests() -> Callable[[], None]:
    """Lets idle threads in, each with a team, until those are more than the cores."""
    import torch

    team = torch.get_num_threads()
    leave = threading.Event()
    count = 1 + max(0, cores() - team) // (team - 1) if team > 1 else 0
    inside = threading.Barrier(count + 1)

    def stay() -> None:
        # The first operation that is shared gives a thread its team.
        torch.ones(team * _ELEMENTS).add_(1)
        inside.wait()
        leave.wait()

    guests = [threading.Thread(target=stay, name="guest", daemon=True) for _ in range(count)]
    for guest in guests:
        guest.start()
    inside.wait()

    def dismiss() -> None:
        leave.set()
        for guest in guests:
            guest.join()

    return dismiss
