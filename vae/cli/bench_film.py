"""``python -m vae bench film``: what a hand feels on the screens with films, in Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vae.cli.program import EXIT_MISSING, EXIT_USAGE, Stop, parse

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["TEXT", "bench_film"]

TEXT = "Frames while scrubbing a film, a new start, and a change of screen, in Chromium."

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
_STARTS_WITHIN = 60
_MOVES = 240

# Components live in shadow roots, which a plain query doesn't enter.
_FILM = """() => [...document.querySelectorAll('*')]
  .map(one => one.shadowRoot?.querySelector('.film[data-film]')).find(Boolean)"""

# Notes the time of every frame of the display, and what the film shows then.
_RECORD = f"""() => {{
  const film = ({_FILM})();
  window.benchTicks = [];
  const tick = time => {{
    window.benchTicks?.push([time, film.dataset.frame]);
    if (window.benchTicks) requestAnimationFrame(tick);
  }};
  requestAnimationFrame(tick);
}}"""

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


@dataclass(frozen=True)
class _Arguments:
    """What to measure.

    Args:
        port: The port of the server that is started for it.
        turns: New starts and changes of screen; medians are printed.
        json: Print one JSON document instead of a table.
    """

    port: int = 8590
    turns: int = 9
    json: bool = False


class Measure(NamedTuple):
    """One figure and what it must reach.

    Attributes:
        name: What was measured.
        value: In the unit.
        unit: The unit.
        bar: At most this much.
    """

    name: str
    value: float
    unit: str
    bar: float


def bench_film(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    flags = parse(_Arguments, "bench film", TEXT, arguments)
    if flags.turns < 1 or not 1 <= flags.port <= 65_535:
        raise Stop(EXIT_USAGE, "turns must be at least 1, and port lie in 1..65535.")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise Stop(
            EXIT_MISSING, "playwright is not installed: pip install -r requirements-dev.txt."
        ) from error
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    measures: list[Measure] = []
    with _server(flags.port) as address, sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        except Error as error:
            raise Stop(EXIT_MISSING, "Chromium does not start; install it first.") from error
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        for model in ("digits-2d", "sprites-10d"):
            measures += _scrub(page, address, model)
        # Decoding takes next to nothing of the first, so that the second tells what it costs.
        for model in ("digits-10d", "sprites-10d"):
            measures.append(_new_start(page, address, model, flags.turns))
        measures += _switches(page, address, flags.turns)
        browser.close()
    if flags.json:
        print(json.dumps([one._asdict() for one in measures], indent=1))
    else:
        print("\n".join(_line(one) for one in measures))
    return 0


def _line(one: Measure) -> str:
    reached = "reached" if one.value <= one.bar else "MISSED"
    return f"{one.name:<52} {one.value:>8.1f} {one.unit:<8} at most {one.bar:>5g}   {reached}"


def _scrub(page: Page, address: str, model: str) -> list[Measure]:
    """Drags a hand to and fro over a strip."""
    calls: list[int] = []
    page.on(
        "websocket",
        lambda socket: (
            socket.on("framesent", lambda data: calls.append(len(data))),
            socket.on("framereceived", lambda data: calls.append(len(data))),
        ),
    )
    _open(page, f"{address}/traversals?model={model}")
    box = page.locator(".strip").first.bounding_box()
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 2, height)
    page.mouse.down()
    page.wait_for_timeout(300)
    calls.clear()
    page.evaluate(_RECORD)
    for step in range(_MOVES):
        swing = abs(step % 80 - 40) / 40
        page.mouse.move(box["x"] + 2 + swing * (box["width"] - 4), height)
    ticks = page.evaluate(
        "() => { const all = window.benchTicks; window.benchTicks = null; return all }"
    )
    heard = len(calls)
    page.mouse.up()
    times = [time for time, _ in ticks]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    shown = sum(after[1] != before[1] for before, after in zip(ticks, ticks[1:], strict=False))
    if shown < 20:
        raise Stop(
            EXIT_USAGE, f"the film of {model} hardly moved: {shown} of {len(ticks)} frames."
        )
    return [
        Measure(f"scrub {model}, median frame", statistics.median(gaps), "ms", 17),
        Measure(f"scrub {model}, 95th percentile", _percentile(gaps, 0.95), "ms", 34),
        Measure(f"scrub {model}, messages to or from the server", heard, "", 0),
    ]


def _new_start(page: Page, address: str, model: str, turns: int) -> Measure:
    """From a click on Next until all films of another sample are drawn."""
    _open(page, f"{address}/traversals?model={model}")
    times = []
    for _ in range(turns):
        known = page.locator(".film").first.get_attribute("data-film")
        condition = f"() => ({_FILM})()?.dataset.film !== {json.dumps(known)}"
        times.append(
            _clicked(page, condition, page.get_by_role("button", name="Next", exact=True))
        )
    return Measure(f"new start, all films of {model}", statistics.median(times), "ms", 500)


def _switches(page: Page, address: str, turns: int) -> list[Measure]:
    """Between two screens that were open before, until the new one's films are drawn."""
    _open(page, f"{address}/traversals?model=sprites-10d")
    times: dict[str, list[float]] = {"Overview": [], "Traversals": []}
    for turn in range(2 * turns + 2):
        name = ("Overview", "Traversals")[turn % 2]
        known = page.locator(".film").first.get_attribute("data-film")
        condition = (
            f"() => {{ const film = ({_FILM})(); "
            f"return film && film.dataset.film !== {json.dumps(known)} }}"
        )
        link = page.get_by_role("link", name=name, exact=True)
        took = _clicked(page, condition, link)
        if turn > 1:
            times[name].append(took)
    return [
        Measure(f"change of screen, warm, to {name}", statistics.median(all_times), "ms", 500)
        for name, all_times in times.items()
    ]


def _clicked(page: Page, condition: str, target: object) -> float:
    """Milliseconds from a click until a condition holds and is drawn."""
    _settle(page)
    page.evaluate(_AWAIT, condition)
    target.click()
    page.wait_for_function("() => window.benchWait !== undefined")
    return page.evaluate("() => window.benchWait")


def _open(page: Page, url: str) -> None:
    page.goto(url)
    page.locator(".film[data-film]").first.wait_for()
    _settle(page)


def _settle(page: Page) -> None:
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')"
        "?.getAttribute('data-test-script-state') === 'notRunning'"
    )
    page.wait_for_timeout(300)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def _server(port: int) -> Iterator[str]:
    """Runs the app for as long as it is measured, and yields its address."""
    from vae.ui.serve import free_port

    chosen = free_port(port)
    if chosen is None:
        raise Stop(EXIT_USAGE, f"port {port} and those after it are in use.")
    command = [sys.executable, "-m", "vae", "app", "--port", str(chosen), "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://localhost:{chosen}"
    try:
        deadline = time.monotonic() + _STARTS_WITHIN
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Stop(
                    EXIT_MISSING, "the app's server did not start; try `python -m vae app`."
                )
            time.sleep(0.2)
        yield address
    finally:
        # The server is a child of the command: both are of the session started for them.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
            return True
    except OSError:
        return False
