"""``make bench NAME=film``: what a hand feels on the screens with films, in Chromium."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro
from browser import running_app

from bench.chromium import (
    Measure,
    chromium,
    clicked,
    new_page,
    percentile,
    print_measures,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEXT = "Frames while scrubbing a film, a new start, and a change of screen, in Chromium."

_MOVES = 240

# Components live in shadow roots, which a plain query doesn't enter. Looking through the whole
# page in every frame would slow what is measured, so a film once found is kept.
_FILM = """() => window.benchFilm = window.benchFilm?.isConnected ? window.benchFilm
  : [...document.querySelectorAll('*')]
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


@dataclass(frozen=True)
class _Arguments:
    """What to measure.

    Args:
        turns: New starts and changes of screen; medians are printed.
        json: Print one JSON document instead of a table.
    """

    turns: int = 9
    json: bool = False


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    flags = tyro.cli(_Arguments, prog="bench film", description=TEXT, args=arguments)
    if flags.turns < 1:
        sys.exit(f"--turns must be at least 1, not {flags.turns}.")
    measures: list[Measure] = []
    with running_app() as address, chromium() as running:
        page = new_page(running)
        for model in ("digits-2d", "sprites-10d"):
            measures += _scrub(page, address, model)
        # Decoding takes next to nothing of the first, so that the second tells what it costs.
        for model in ("digits-10d", "sprites-10d"):
            measures.append(_new_start(page, address, model, flags.turns))
        measures += _switches(page, address, flags.turns)
    print_measures(measures, flags.json)


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
        sys.exit(f"the film of {model} hardly moved: {shown} of {len(ticks)} frames.")
    return [
        Measure(f"scrub {model}, median frame", statistics.median(gaps), "ms", 17),
        Measure(f"scrub {model}, 95th percentile", percentile(gaps, 0.95), "ms", 34),
        Measure(f"scrub {model}, messages to or from the server", heard, "", 0),
    ]


def _new_start(page: Page, address: str, model: str, turns: int) -> Measure:
    """From a click on Next until all films of another sample are drawn."""
    _open(page, f"{address}/traversals?model={model}")
    times = []
    for _ in range(turns):
        known = page.locator(".film").first.get_attribute("data-film")
        condition = f"() => ({_FILM})()?.dataset.film !== {json.dumps(known)}"
        times.append(clicked(page, condition, page.get_by_role("button", name="Next", exact=True)))
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
        took = clicked(page, condition, link)
        if turn > 1:
            times[name].append(took)
    return [
        Measure(f"change of screen, warm, to {name}", statistics.median(all_times), "ms", 500)
        for name, all_times in times.items()
    ]


def _open(page: Page, url: str) -> None:
    page.goto(url)
    page.locator(".film[data-film]").first.wait_for()
    settle(page)
