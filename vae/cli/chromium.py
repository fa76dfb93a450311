"""What benchmarks in a browser share: the app's server, Chromium, and figures with their bars."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vae.cli.program import EXIT_IO, EXIT_MISSING, EXIT_USAGE, Stop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

__all__ = [
    "Measure",
    "Processor",
    "answers",
    "app_server",
    "check_port",
    "chromium",
    "clicked",
    "new_page",
    "percentile",
    "print_measures",
    "settle",
]

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
_STARTS_WITHIN = 120
_WAITS = 60_000

# Notes the time from the next click until a condition holds and the frame after it is drawn.
_AWAIT = """(condition) => {
  window.benchWait = undefined;
  const holds = eval(condition);
  document.addEventListener('click', () => {
    const start = performance.now();
    const look = () => holds()
      ? requestAnimationFrame(() => window.benchWait = performance.now() - start)
      : requestAnimationFrame(look);
    requestAnimationFrame(look);
  }, {once: true, capture: true});
}"""


class Measure(NamedTuple):
    """One figure and what it must reach.

    Attributes:
        name: What was measured.
        value: In the unit.
        unit: The unit.
        bar: At most this much; none where the figure is for information.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None


def print_measures(measures: Sequence[Measure], as_json: bool) -> None:
    """Prints a table of figures, or one JSON document."""
    if as_json:
        print(json.dumps([one._asdict() for one in measures], indent=1))
        return
    width = max(len(one.name) for one in measures)
    for one in measures:
        line = f"{one.name:<{width}} {one.value:>8.1f} {one.unit:<3}"
        if one.bar is not None:
            reached = "reached" if one.value <= one.bar else "MISSED"
            line += f" at most {one.bar:>5g}   {reached}"
        print(line)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Runs Chromium.

    Raises:
        Stop: If it or playwright is not installed.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise Stop(
            EXIT_MISSING, "playwright is not installed: pip install -r requirements-dev.txt."
        ) from error
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        except Error as error:
            raise Stop(EXIT_MISSING, "Chromium does not start; install it first.") from error
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser: Browser) -> Page:
    """A window of a desk's size, of a visitor who was never there before."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(_WAITS)
    return page


def settle(page: Page, rest: int = 300) -> None:
    """Waits until no script runs, and so many milliseconds more."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')"
        "?.getAttribute('data-test-script-state') === 'notRunning'"
    )
    page.wait_for_timeout(rest)


def clicked(page: Page, condition: str, target: Locator) -> float:
    """Milliseconds from a click until a condition holds and is drawn.

    Args:
        page: The page.
        condition: A function without arguments, in JavaScript; asked once a frame.
        target: What is clicked.

    Raises:
        Stop: If it does not come to hold.
    """
    from playwright.sync_api import TimeoutError as TookTooLong

    settle(page)
    page.evaluate(_AWAIT, condition)
    target.click()
    try:
        page.wait_for_function("() => window.benchWait !== undefined")
    except TookTooLong as error:
        seconds = _WAITS // 1_000
        raise Stop(EXIT_IO, f"the page was not redrawn within {seconds} seconds.") from error
    return page.evaluate("() => window.benchWait")


def check_port(port: int) -> None:
    """Refuses a number that is no port, before anything is begun."""
    if not 1 <= port <= 65_535:
        raise Stop(EXIT_USAGE, f"--port must lie in 1..65535, not {port}.")


class Processor:
    """Processor time since it was made, which a busy machine stretches far less than waiting.

    Args:
        page: The page whose script and drawing count.
        server: The number of the server's process.
    """

    def __init__(self, page: Page, server: int) -> None:
        self._session, self._server = page.context.new_cdp_session(page), server
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._start = self._page_ms(), self._server_ms()

    def spent(self) -> tuple[float, float | None]:
        """Milliseconds of the page's main thread and of the server; none where nobody counts."""
        page, server = self._page_ms() - self._start[0], self._server_ms()
        return page, None if server is None else server - self._start[1]

    def _page_ms(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return next(1_000 * one["value"] for one in metrics if one["name"] == "TaskDuration")

    def _server_ms(self) -> float | None:
        try:
            words = Path(f"/proc/{self._server}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # Fields 14 and 15 of the whole line, in ticks: in the program and in the system for it.
        return 1_000 * (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def app_server(port: int, checkpoints: Path | None = None) -> Iterator[tuple[str, int]]:
    """Runs the app for as long as it is measured; yields its address and its process's number.

    Args:
        port: The first port to try.
        checkpoints: The folder of checkpoints; the project's own when not given.

    Raises:
        Stop: If there is no free port, or the server does not start.
    """
    from vae.ui.serve import free_port

    chosen = free_port(port)
    if chosen is None:
        raise Stop(EXIT_USAGE, f"port {port} and those after it are in use.")
    root, environment = Path(__file__).parents[2], dict(os.environ)
    if checkpoints is not None:
        environment["ELBOSCOPE_CHECKPOINTS"] = str(checkpoints)
    process = subprocess.Popen(
        [sys.executable, "-m", "vae", "app", "--port", str(chosen), "--no-browser"],
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://localhost:{chosen}"
    try:
        deadline = time.monotonic() + _STARTS_WITHIN
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Stop(
                    EXIT_MISSING, "the app's server did not start; try `python -m vae app`."
                )
            time.sleep(0.2)
        yield address, process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def answers(address: str) -> bool:
    """Whether a server of the app is up at an address."""
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
            return True
    except OSError:
        return False
