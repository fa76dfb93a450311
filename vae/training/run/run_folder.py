r"""``.run``: everything that changes while a model trains, inside the folder of its checkpoint.

- ``status.json``: where the run stands, for people and the app; replaced whole, never half.
- ``history.jsonl``: one line for each evaluation.
- ``state.safetensors``: all that the next step follows from, for ``--resume``.
- ``best.safetensors``: the best weights so far.
- ``lock``: held by the process that trains; the system lets go of it when that process dies.
- ``stop``: written by whoever wants the run to save and end.

There is no pickle. Files that must survive are written beside, flushed, read back and renamed, so
that a kill at any instant leaves the old one or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vae.data import disk
from vae.data.disk import is_alive, machine_mark, replace_file, replacing, sweep
from vae.store.target import true_place

__all__ = ["RunFolder", "RunLocked", "is_running", "process_mark"]


# A status is renewed each second while a model trains.
_RENEWED = 120


class RunLocked(FileExistsError):
    """Raised when another process trains in a folder."""


class RunFolder:
    """Reads and writes the ``.run`` folder of one checkpoint.

    Args:
        out: The checkpoint's directory, or a link to it, which need not exist.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = true_place(out)
        self.path = self.out / ".run"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and holds its lock.

        Raises:
            RunLocked: If another process holds it.
            OSError: If nothing can be written there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / "lock"
        try:
            file = disk.locked(lock)
        except BlockingIOError:
            owner = lock.read_text(errors="replace")[:32].strip() or "unknown"
            raise RunLocked(
                errno.EEXIST,
                f"another process (pid {owner}) is training there; wait for it, stop it, or "
                "choose another --out",
            ) from None
        except OSError:
            self.remove_unbegun()
            raise
        with file:
            # Only for people: the lock itself is the system's, so a dead owner holds nothing.
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            yield

    def status(self) -> dict[str, Any] | None:
        """Where the run stands; none where there is no run, or nothing readable."""
        try:
            status = json.loads((self.path / "status.json").read_bytes())
        except (OSError, ValueError):
            return None
        return status if isinstance(status, dict) else None

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replaces the status, which informs and need not survive: no flushing, no error."""
        with suppress(OSError), replacing(self.path / "status.json", lasting=False) as file:
            file.write(json.dumps(status).encode())

    def history(self) -> list[dict[str, Any]]:
        """The evaluations so far; a line cut short by a kill is left out."""
        try:
            lines = (self.path / "history.jsonl").read_text().splitlines()
        except (OSError, ValueError):
            return []
        records = []
        for line in lines:
            with suppress(ValueError):
                records.append(json.loads(line))
        return [record for record in records if isinstance(record, dict)]

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Adds an evaluation."""
        with (self.path / "history.jsonl").open("a") as file:
            file.write(f"{json.dumps(record)}\n")

    def replace_history(self, records: list[dict[str, Any]]) -> None:
        """Starts the history again from what a resumed run knows."""
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        self.write("history.jsonl", text.encode())

    def read(self, name: str) -> bytes | None:
        """A file's bytes; none where there is no such file."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file for good: after this returns, a power cut leaves the new one.

        Raises:
            OSError: If the disk refuses or alters what it was given; the old file stays.
        """
        try:
            replace_file(self.path / name, data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise OSError(error.errno, _room(self.path, len(data))) from error
            raise

    def check_room(self, size: int) -> None:
        """Refuses to start what cannot be saved three times over.

        Raises:
            OSError: If the disk has too little room.
        """
        if shutil.disk_usage(self.path).free < 3 * size:
            raise OSError(errno.ENOSPC, _room(self.path, 3 * size))

    def tidy(self) -> None:
        """Removes what killed writers left behind; only under the lock."""
        sweep(self.path, ".*.tmp-*")

    def clear(self) -> None:
        """Forgets the last run, keeping the lock."""
        for file in self.path.iterdir():
            if file.name != "lock":
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def remove_unbegun(self) -> None:
        """Removes the folder unless a run has begun in it."""
        if not self.status() and not self.holds_state:
            self.remove()

    def remove(self) -> None:
        """Removes the folder, and the checkpoint's directory if nothing else is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.out.rmdir()

    @property
    def holds_state(self) -> bool:
        """Whether there is a run to resume."""
        return (self.path / "state.safetensors").is_file()

    @property
    def stop_requested(self) -> bool:
        """Whether somebody wants the run to end."""
        return (self.path / "stop").exists()

    def request_stop(self) -> None:
        """Asks the run to save and end."""
        (self.path / "stop").touch()

    def clear_stop(self) -> None:
        """Takes the request back; a resumed run starts without one."""
        (self.path / "stop").unlink(missing_ok=True)


def process_mark(pid: int) -> str:
    """What tells a process from a later one with the same number; empty where it isn't known."""
    try:
        # After the name, which may hold blanks: the state, and as field 22 the start time.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if words[0] == "Z" else words[19]
    except (OSError, IndexError):
        return ""


def is_running(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status is still at work.

    Another machine's cannot be asked for: it is while it renews the status.
    """
    pid = status.get("pid")
    if not isinstance(pid, int):
        return False
    if status.get("machine", machine_mark()) != machine_mark():
        ended = status.get("phase") in ("interrupted", "diverged", "failed")
        return not ended and time.time() - float(status.get("updated") or 0) < _RENEWED
    return is_alive(pid) and status.get("process") in ("", process_mark(pid))


def now() -> float:
    """Seconds since 1970, rounded to what a status needs."""
    return round(time.time(), 3)


def _room(path: Path, needed: int) -> str:
    free = shutil.disk_usage(path).free
    return f"no room left: {needed / 2**20:.1f} MB are needed and {free / 2**20:.1f} MB are free"
