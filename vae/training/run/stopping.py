"""How a run is asked to end: a signal saves first, a second one ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NamedTuple

__all__ = ["GO_ON", "Ending", "Interrupted", "StopSignals"]


class Ending(NamedTuple):
    """Whether somebody has asked a run to end.

    Attributes:
        asked: Whether.
        signal: The number of the signal that asked; 0 for a request by file.
    """

    asked: bool
    signal: int = 0


GO_ON = Ending(False)


class Interrupted(Exception):
    """Raised when a run ended in order before it was done.

    Args:
        step: The step at which its state was saved.
        signal: The number of the signal that asked for it; 0 for a request by file.
    """

    def __init__(self, step: int, signal: int = 0) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step
        self.signal = signal


class StopSignals:
    """Notes SIGTERM and SIGINT while it is entered; in the main thread only.

    Attributes:
        received: The number of the first signal, or 0.
        at_once: Whether a first signal raises ``KeyboardInterrupt`` too: where all is saved.
    """

    def __init__(self) -> None:
        self.received = 0
        self.at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        second = self.received != 0
        self.received = self.received or number
        if second or self.at_once:
            raise KeyboardInterrupt
