"""What every command shares: exit codes, parsing, and how an error becomes one sentence."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

if TYPE_CHECKING:
    from vae.data.sets.image_data import DataMissing
    from vae.store.checkpoint import Checkpoint

__all__ = [
    "EXIT_DIVERGED",
    "EXIT_IO",
    "EXIT_MISSING",
    "EXIT_REFUSED",
    "EXIT_USAGE",
    "EXIT_WRITE",
    "Stop",
    "data_missing",
    "open_checkpoint",
    "parse",
    "unwritable",
]

EXIT_REFUSED, EXIT_USAGE, EXIT_DIVERGED, EXIT_MISSING, EXIT_WRITE, EXIT_IO = 1, 2, 3, 66, 73, 74

Arguments = TypeVar("Arguments")


class Stop(Exception):
    """Ends the program with one sentence and an exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def parse(kind: type[Arguments], command: str, text: str, arguments: list[str]) -> Arguments:
    """Parses flags into a dataclass; a wrong one ends the program with the valid ones named.

    Args:
        kind: The dataclass.
        command: The command's name.
        text: What it does, for ``--help``.
        arguments: The words after the command.

    Raises:
        Stop: If the dataclass refuses the values.
        SystemExit: If the words don't parse, or ask for help.
    """
    try:
        return tyro.cli(kind, prog=f"python -m vae {command}", description=text, args=arguments)
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error


def unwritable(path: str | Path, error: OSError, advice: str = "") -> Stop:
    """The end of a program whose result the disk refused."""
    refusals = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
    refused = isinstance(error, (*refusals, PermissionError)) or error.errno in (
        errno.EROFS,
        errno.ENAMETOOLONG,
    )
    reason = (error.strerror or str(error)).rstrip(".")
    return Stop(
        EXIT_WRITE if refused else EXIT_IO, f"cannot write {str(path)!r}: {reason}.{advice}"
    )


def data_missing(error: DataMissing) -> Stop:
    """The end of a program whose data aren't there, or for which there is no room."""
    from vae.data.sets.cache import CacheUnwritable

    return Stop(EXIT_IO if isinstance(error, CacheUnwritable) else EXIT_MISSING, str(error))


def open_checkpoint(name: str) -> Checkpoint:
    """Opens a checkpoint by path, or by name among the shipped ones.

    Raises:
        Stop: If there is none, or it is damaged.
    """
    from vae.store.contents import CheckpointError
    from vae.store.registry import load

    try:
        return load(name)
    except CheckpointError as error:
        raise Stop(EXIT_MISSING, str(error)) from error
