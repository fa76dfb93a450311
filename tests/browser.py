"""What everything that drives the app in Chromium shares: the server, and how to wait for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = ["CHROMIUM", "FLAGS", "IN_BROWSER", "ROOT", "lead", "running_app", "settle"]

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

# The marks of a file of such tests.
IN_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

_STARTS_WITHIN = 120


@contextmanager
def running_app(*flags: str, base: str = "", **environment: str) -> Iterator[str]:
    """Runs the app on a free port of 127.0.0.1 and yields its address.

    Args:
        flags: Further flags of ``python -m vae app``.
        base: The path below which it is served, such as ``/elbo``.
        environment: Further variables of its environment.
    """
    with app_process(*flags, base=base, **environment) as (address, _):
        yield address


@contextmanager
def app_process(
    *flags: str,
    base: str = "",
    program: Sequence[str] = (sys.executable, "-m", "vae"),
    folder: Path = ROOT,
    **environment: str,
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Like :func:`running_app`, with the process that was started, and where from."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*program, "app", "--port", str(port), "--no-browser", *flags]
    variables = {**os.environ, **environment, "STREAMLIT_SERVER_BASE_URL_PATH": base}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=variables
        )
        address = f"http://localhost:{port}{base}"
        try:
            deadline = time.monotonic() + _STARTS_WITHIN
            while not answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"the app did not start:\n{log.read().decode()[-2_000:]}")
                time.sleep(0.2)
            yield address, process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def answers(address: str) -> bool:
    """Whether a server of the app is up at an address."""
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
            return True
    except OSError:
        return False


def lead(page: Page) -> Locator:
    """A screen's first sentence."""
    return page.locator(".elb-lead").first


def settle(page: Page) -> None:
    """Waits until no script runs and the old screen has gone."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')"
        "?.getAttribute('data-test-script-state') === 'notRunning'"
    )
