"""What benchmarks in a browser share: Chromium, the time of a click, and the table printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import browser
from browser import CHROMIUM, FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

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
    """Runs Chromium."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        sys.exit("Chromium is not installed.")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


def new_page(running: Browser) -> Page:
    """A window of a desk's size, of a visitor who was never there before."""
    page = running.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(_WAITS)
    return page


def settle(page: Page) -> None:
    """Waits until no script runs, and 0.3 seconds more."""
    browser.settle(page)
    page.wait_for_timeout(300)


def clicked(page: Page, condition: str, target: Locator) -> float:
    """Milliseconds from a click until a condition holds and is drawn.

    Args:
        page: The page.
        condition: A function without arguments, in JavaScript; asked once a frame.
        target: What is clicked.

    Raises:
        TimeoutError: Playwright's own, if it does not come to hold.
    """
    settle(page)
    page.evaluate(_AWAIT, condition)
    target.click()
    page.wait_for_function("() => window.benchWait !== undefined")
    return page.evaluate("() => window.benchWait")


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
