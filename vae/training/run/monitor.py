"""What people and the disk see of a run, and how it is asked to end.

The bar, the status, the curves, the saved state; a first signal saves, a second one ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tqdm import tqdm

from vae.data.disk import machine_mark
from vae.training.run.run_folder import RunFolder, now, process_mark
from vae.training.state.run_state import RunState

__all__ = ["GO_ON", "Ending", "Interrupted", "StopSignals", "Watch"]

# Status and bar are renewed this often, in seconds.
_EVERY = 1.0


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


class Watch:
    """Shows, records and saves a run as it goes.

    Args:
        folder: Where its files lie; none keeps nothing on disk.
        progress: Whether to draw a progress bar on standard error.
        signals: Those that ask for an end.
        command: The command line, for the status.
        save_seconds: A crash costs at most about so many seconds of work.
        tensorboard: A folder for TensorBoard's files.
    """

    def __init__(
        self,
        folder: RunFolder | None = None,
        progress: bool = True,
        signals: StopSignals | None = None,
        command: str = "",
        save_seconds: float = 60.0,
        tensorboard: Path | None = None,
    ) -> None:
        self.folder, self.progress, self.signals = folder, progress, signals
        self.command, self.save_seconds = command, save_seconds
        self.images_per_second = 0.0
        self._status: dict[str, Any] = {
            "phase": "starting",
            "pid": os.getpid(),
            "process": process_mark(os.getpid()),
            "machine": machine_mark(),
            "started": now(),
            "command": command,
            "message": "",
        }
        self._bar: tqdm | None = None
        self._curves = _open_tensorboard(tensorboard) if tensorboard else None
        self._looked = self._saved = time.perf_counter()
        self._looked_step = self._saved_best = 0
        self._images = 0
        self._asked = False

    def say(self, line: str) -> None:
        """Prints a line for people above the bar, unless nothing is to be shown."""
        if self.progress:
            tqdm.write(line, file=sys.stderr)

    def start(self, state: RunState, batch: int, facts: Mapping[str, Any]) -> None:
        """Opens the bar and the status.

        Args:
            state: The run.
            batch: The number of images a step.
            facts: Further entries of the status.

        Raises:
            OSError: If there is no room for what will have to be saved.
        """
        config = state.config
        self._images, self._looked_step, self._saved_best = batch, state.step, state.best_step
        self._status |= {"steps": config.steps, "max_minutes": config.max_minutes, **facts}
        if self.folder is not None:
            self.folder.check_room(state.size)
            self.folder.clear_stop()
            self.folder.replace_history(state.history)
        self._bar = tqdm(
            # Where minutes end a run, its number of steps isn't known.
            total=None if config.max_minutes else config.steps,
            initial=state.step,
            disable=not self.progress,
            file=sys.stderr,
            unit="step",
        )
        self._looked = self._saved = time.perf_counter()
        self._write(state, "training")

    def look(self, state: RunState) -> None:
        """Renews bar and status, and saves, each when it is time."""
        clock = time.perf_counter()
        if clock - self._looked >= _EVERY:
            taken = state.step - self._looked_step
            self.images_per_second = taken * self._images / (clock - self._looked)
            self._looked, self._looked_step = clock, state.step
            means = state.averages()
            self._bar.update(state.step - self._bar.n)
            self._bar.set_postfix_str(
                f"ELBO {means.elbo:.2f}, rate {means.rate:.2f}, "
                f"distortion {means.distortion:.2f} nats, {self.images_per_second:,.0f} images/s"
            )
            self._write(state, "training")
            self._asked = self.folder is not None and self.folder.stop_requested
        if clock - self._saved >= self.save_seconds:
            self.save(state)

    def evaluated(self, state: RunState) -> None:
        """Records the newest evaluation."""
        record = state.history[-1]
        if self.folder is not None:
            self.folder.append_history(record)
        if self._curves is not None:
            for split in ("train", "validation"):
                for name in ("elbo", "rate", "distortion"):
                    self._curves.add_scalar(f"{name}/{split}", record[split][name], record["step"])
            self._curves.flush()
        self._bar.update(state.step - self._bar.n)
        self._bar.set_postfix_str(
            f"validation ELBO {record['validation']['elbo']:.2f} nats, "
            f"rate {record['validation']['rate']:.2f}"
        )
        self._write(state, "training")
        # An evaluation is no training: it must not slow the images per second that are shown.
        self._looked, self._looked_step = time.perf_counter(), state.step

    @property
    def ending(self) -> Ending:
        """Whether somebody has asked for an end, by a signal or by file."""
        if self.signals is not None and self.signals.received:
            return Ending(True, self.signals.received)
        return Ending(True) if self._asked else GO_ON

    def save(self, state: RunState) -> None:
        """Saves the best weights, then all that the next step follows from.

        Raises:
            OSError: If the disk refuses; what was saved before stays.
        """
        if self.folder is None:
            return
        if state.best and state.best_step != self._saved_best:
            self.folder.write("best.safetensors", state.pack_best())
            self._saved_best = state.best_step
        self.folder.write("state.safetensors", state.pack())
        self._saved = time.perf_counter()

    def close(
        self,
        state: RunState | None = None,
        phase: str = "",
        message: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Closes the bar, and says in the status how it ended."""
        if self._bar is not None:
            if state is not None:
                self._bar.update(state.step - self._bar.n)
            self._bar.close()
        if phase:
            self._status |= {"message": message, **(facts or {})}
            self._write(state, phase)

    def _write(self, state: RunState | None, phase: str) -> None:
        if self.folder is None:
            return
        self._status |= {"phase": phase, "updated": now()}
        if state is not None:
            self._status |= {
                "step": state.step,
                "seconds": round(state.seconds, 1),
                "images_per_second": round(self.images_per_second, 1),
                "validation": state.history[-1]["validation"] if state.history else None,
                "best_step": state.best_step,
                "best_elbo": state.best_elbo if state.best else None,
            }
            if state.has_averages:
                self._status |= state.averages()._asdict()
        self.folder.write_status(self._status)


def _open_tensorboard(folder: Path) -> Any:  # noqa: ANN401
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "--tensorboard needs the tensorboard package: run `pip install tensorboard`."
        ) from error
    return SummaryWriter(str(folder))
