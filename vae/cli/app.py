"""``python -m vae app``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vae.cli.program import EXIT_MISSING, EXIT_USAGE, Stop, parse

__all__ = ["TEXT", "app"]

TEXT = "Open the app in a browser."


@dataclass(frozen=True)
class _Arguments:
    """Where to serve.

    Args:
        port: The port on 127.0.0.1; the next free one is taken when it is in use.
        checkpoints: The folder of checkpoints.
        browser: Open a browser where there is a display.
        folders: Folders of images that the screen Train may offer, besides the data sets.
    """

    port: int = 8501
    checkpoints: Path | None = None
    browser: bool = True
    folders: tuple[Path, ...] = ()


def app(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.ui.server.serve import serve

    flags = parse(_Arguments, "app", TEXT, arguments)
    if not 1 <= flags.port <= 65_535:
        raise Stop(EXIT_USAGE, f"--port must lie in 1..65535, not {flags.port}.")
    if flags.checkpoints is not None and not flags.checkpoints.is_dir():
        raise Stop(EXIT_MISSING, f"there is no folder {str(flags.checkpoints)!r}.")
    for folder in flags.folders:
        if not folder.is_dir():
            raise Stop(EXIT_MISSING, f"there is no folder {str(folder)!r}.")
    return serve(flags.port, flags.checkpoints, flags.browser, flags.folders)
