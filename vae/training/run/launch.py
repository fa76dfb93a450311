"""Starts, stops and resumes training as processes of their own, which outlive who started them.

What a run is doing stands in the ``.run`` folder of its checkpoint; nothing here holds state.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from vae.data.sets.cache import CacheUnwritable, cache_home
from vae.paths import app_folder, is_installed
from vae.training.config import TrainConfig
from vae.training.presets import PRESETS
from vae.training.run.run_folder import RunFolder, is_running

__all__ = [
    "Run",
    "command_of",
    "last_words",
    "name_problem",
    "resume",
    "runs",
    "shown",
    "start",
    "stop",
    "without_paths",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")


class Run(NamedTuple):
    """A run that has not been committed as a checkpoint yet, or is about to be.

    Attributes:
        name: The checkpoint's name.
        status: What its status file says; see :mod:`vae.training.run.run_folder`.
        running: Whether its process is at work.
        resumable: Whether it can go on from a saved state.
    """

    name: str
    status: dict[str, Any]
    running: bool
    resumable: bool


def runs(root: Path) -> list[Run]:
    """The runs under a folder of checkpoints, the newest first."""
    found = []
    for path in root.glob("*/.run"):
        folder = RunFolder(path.parent)
        status = folder.status()
        if status is not None and not path.parent.is_symlink():
            running = is_running(status)
            resumable = not running and folder.holds_state
            found.append(Run(path.parent.name, status, running, resumable))
    return sorted(found, key=lambda run: -float(run.status.get("started") or 0))


def name_problem(root: Path, name: str) -> str:
    """Why a model cannot have a name, in one sentence; empty where it can."""
    if not _NAME.fullmatch(name):
        return (
            "A name has 1 to 60 small letters, digits, dots, hyphens or underscores, and starts "
            "with a letter or digit."
        )
    if (root / name).exists():
        return f"There is a model or a run named {name} already; choose another name."
    return ""


def command_of(preset: str, config: TrainConfig, out: Path) -> list[str]:
    """The words after ``python -m vae`` that make a run: the preset and what departs from it.

    Args:
        preset: One of the presets.
        config: The run.
        out: The checkpoint's directory.
    """
    words = ["train", preset]
    for field in fields(TrainConfig):
        value = getattr(config, field.name)
        if value == getattr(PRESETS[preset], field.name) or value is None:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        words.append(f"--{flag}")
        words += [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
    return [*words, "--out", str(out)]


def start(name: str, words: list[str]) -> None:
    """Starts a process of its own with ``python -m vae`` and these words.

    Args:
        name: The checkpoint's name; its output goes to a file of that name.
        words: Those of :func:`command_of`.

    Raises:
        CacheUnwritable: If there is no place for what it prints.
        OSError: If the process cannot be made.
    """
    log = _log(name)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb")
    except OSError as error:
        raise CacheUnwritable(
            f"What the run prints cannot be kept in {str(log.parent)!r} "
            f"({error.strerror or error}): let ELBOSCOPE_CACHE name another folder."
        ) from error
    with output:
        # A session of its own: neither the browser's tab nor the server takes it along.
        process = subprocess.Popen(
            [sys.executable, "-m", "vae", *words],
            cwd=None if is_installed() else app_folder(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    # Whoever starts a process must ask how it ended, or it stays in the table of processes.
    threading.Thread(target=process.wait, daemon=True).start()


def stop(root: Path, name: str) -> None:
    """Asks a run to save and end; it does so within a second or two."""
    _folder(root, name).request_stop()


def resume(root: Path, name: str) -> None:
    """Goes on with a run that was interrupted."""
    folder = _folder(root, name)
    start(name, ["train", "--out", str(folder.out), "--resume"])


def last_words(name: str, most: int = 600) -> str:
    """The end of what a run printed, for when it failed; empty where nothing is known."""
    try:
        text = _log(name).read_bytes().decode(errors="replace")
    except (OSError, CacheUnwritable):
        return ""
    # A progress bar writes each state over the last one.
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line)[-most:]


def shown(words: list[str]) -> str:
    """A command as a person would type it."""
    return shlex.join(["python", "-m", "vae", *words])


def without_paths(command: str) -> str:
    """A command as strangers may see it, who need not know where things lie on this computer.

    Args:
        command: The command of a run, as its manifest keeps it.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return "python -m vae train"
    kept: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("--"):
            kept.append(f"{flag}={_unplaced(flag, value)}")
        else:
            kept.append(_unplaced(kept[-1] if kept else "", word))
    return shlex.join(kept)


def _unplaced(flag: str, value: str) -> str:
    if value.startswith("folder:"):
        return "folder:PATH"
    if flag == "--out":
        return f"checkpoints/{Path(value).name}"
    outside = flag == "--tensorboard" or os.path.isabs(value) or value.startswith("~")
    return "PATH" if outside else value


def _folder(root: Path, name: str) -> RunFolder:
    """A run by its name among those there are: a name is never made part of a path unseen.

    Raises:
        KeyError: If there is no such run.
    """
    if name not in {run.name for run in runs(root)}:
        raise KeyError(name)
    return RunFolder(root / name)


def _log(name: str) -> Path:
    return cache_home() / "runs" / f"{name}.log"
