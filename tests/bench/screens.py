"""``make bench NAME=screens``: how long a visitor waits for each screen, in Chromium."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro
from browser import app_process

from bench.chromium import (
    Measure,
    Processor,
    chromium,
    clicked,
    new_page,
    print_measures,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEXT = "From a click to the whole screen: a change of screen, and another sample, in Chromium."

# At most so many milliseconds.
_SWITCH, _REDRAW = 500, 300

# The script has ended, and nothing of the run before it is left. The state is still that of the
# run before in the first frames after a click, and a short run may begin and end within one frame:
# so what a run does to the page is noted when it does it. A click alone changes attributes only.
_WHOLE = """(() => {
  const app = document.querySelector('[data-testid=stApp]');
  let ran = false;
  const seen = new MutationObserver(() => { ran = true; seen.disconnect(); });
  seen.observe(app, {attributeFilter: ['data-test-script-state']});
  for (const part of app.querySelectorAll('[data-testid=stMain], [data-testid=stSidebar]')) {
    seen.observe(part, {subtree: true, childList: true, characterData: true});
  }
  return () => ran && app.dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-testid=stMain] [data-stale=true]');
})()"""


@dataclass(frozen=True)
class _Arguments:
    """What to measure.

    Args:
        checkpoint: The model shown, by its name.
        screens: The screens, by the last part of their address; all when none is given.
        turns: Changes and samples; medians are printed.
        json: Print one JSON document instead of a table.
    """

    checkpoint: str = "digits-2d"
    screens: tuple[str, ...] = ()
    turns: int = 9
    json: bool = False


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    from vae.ui.screens import SCREENS

    flags = tyro.cli(_Arguments, prog="bench screens", description=TEXT, args=arguments)
    if flags.turns < 1:
        sys.exit(f"--turns must be at least 1, not {flags.turns}.")
    titles = {name: title for section in SCREENS.values() for name, title in section.items()}
    if unknown := set(flags.screens) - set(titles):
        sys.exit(f"there is no screen {min(unknown)!r}; there are: {', '.join(titles)}.")
    measures: list[Measure] = []
    with app_process() as (address, server), chromium() as running:
        page = new_page(running)
        for name in flags.screens or titles:
            measures += _figures(page, address, server.pid, flags, name, titles)
    print_measures(measures, flags.json)


def _figures(
    page: Page, address: str, pid: int, flags: _Arguments, name: str, titles: dict[str, str]
) -> list[Measure]:
    """One screen, drawn again and again."""
    # The overview is at the root, and bears the model's name and not its own.
    path = "" if name == "overview" else name
    page.goto(f"{address}/{path}?model={flags.checkpoint}&sample=20")
    page.get_by_role("heading", level=1).first.wait_for()
    settle(page)
    if page.get_by_test_id("stException").count():
        sys.exit(f"the screen {titles[name]!r} ends in an error.")
    # From a screen with little on it, so that this one's own time is what is measured.
    title, away = titles[name], "Derivation" if name != "derivation" else "Score images"

    def switch() -> float:
        page.get_by_role("link", name=away, exact=True).click()
        page.get_by_role("heading", name=away, exact=True, level=1).wait_for()
        return clicked(page, _WHOLE, page.get_by_role("link", name=title, exact=True))

    def step() -> float:
        return clicked(page, _WHOLE, page.get_by_role("button", name="Next", exact=True))

    switch()  # the very first ones fill caches
    switches = [switch() for _ in range(flags.turns)]
    step()
    processor = Processor(page, pid)
    redraws = [step() for _ in range(flags.turns)]
    settle(page)
    in_page, in_server = processor.spent()
    found = [
        Measure(f"{title}: change of screen, warm", statistics.median(switches), "ms", _SWITCH),
        Measure(f"{title}: another sample", statistics.median(redraws), "ms", _REDRAW),
        Measure(f"{title}: its processor time in the page", in_page / flags.turns, "ms"),
    ]
    if in_server is not None:
        took = in_server / flags.turns
        found.append(Measure(f"{title}: its processor time in the server", took, "ms"))
    return found
