"""Starts the app's server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vae.paths import app_folder
from vae.store.registry import default_root

__all__ = ["folders_variable", "free_port", "serve"]

_PORTS_TRIED = 20


def serve(port: int, checkpoints: Path | None, browser: bool, folders: Sequence[Path] = ()) -> int:
    """Becomes the app's server, so that a signal to this process is one to the server.

    Args:
        port: The port on 127.0.0.1; the next free one is taken when it is in use.
        checkpoints: The folder of checkpoints; that of :func:`default_root` when not given.
        browser: Whether to open a browser where there is a display.
        folders: Folders of images that the screen Train may offer.

    Returns:
        An exit code where no server was started; on Windows the server's own.
    """
    chosen = free_port(port)
    if chosen is None:
        print(f"vae app: ports {port} to {port + _PORTS_TRIED - 1} are in use.", file=sys.stderr)
        return 1
    if chosen != port:
        print(f"vae app: port {port} is in use, so {chosen} is taken.", file=sys.stderr)
    # Absolute, since the server runs in the app's own folder.
    root = (checkpoints or default_root()).resolve()
    environment = {**os.environ, "ELBOSCOPE_CHECKPOINTS": str(root)}
    if folders:
        environment["ELBOSCOPE_FOLDERS"] = folders_variable(folders)
    # Streamlit prints the address, which its settings may alter, when the server answers.
    print("Elboscope is starting; stop it with Ctrl+C.", flush=True)
    command = [
        *(sys.executable, "-m", "streamlit", "run", str(app_folder() / "app.py")),
        *("--server.port", str(chosen)),
        *("--server.headless", str(not (browser and _has_display())).lower()),
    ]
    # Streamlit reads its settings from the working directory as well as beside the script.
    os.chdir(app_folder())
    if sys.platform == "win32":
        # There exec makes another process and ends this one.
        return subprocess.call(command, env=environment)
    os.execve(sys.executable, command, environment)


def folders_variable(folders: Sequence[Path]) -> str:
    """Folders as the server is told of them: as JSON, since a path may hold any separator."""
    return json.dumps([str(folder.resolve()) for folder in folders])


def free_port(first: int) -> int | None:
    """The first free port of 127.0.0.1 from ``first`` on, or none among the next twenty."""
    for port in range(first, min(first + _PORTS_TRIED, 65_536)):
        with socket.socket() as probe:
            # A server that has just ended leaves its port waiting, which is no reason to move.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return None


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
