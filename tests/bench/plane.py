"""``make bench NAME=plane``: what a hand feels on the latent map, in Chromium."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from browser import app_process

from bench.chromium import (
    Measure,
    chromium,
    clicked,
    new_page,
    percentile,
    print_measures,
)
from vae.cli.program import open_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from vae.store.checkpoint import Checkpoint

TEXT = "Frames while hovering, panning and zooming the latent map, its loading and its memory."

_OPENS_WITHIN = 180
# At most so many milliseconds, in the median of so many.
_OPENS, _OPENINGS = 2_000, 3
_SWITCHES, _BARRED = 500, 10_000
_MOVES = 240
_MOST_POINTS = 2_000_000

# Components live in shadow roots, which a plain query doesn't enter.
_PLANE = """[...document.querySelectorAll('*')]
  .map(one => one.shadowRoot?.querySelector('.elb-plane')?.plane).find(Boolean)"""

_READY = (
    f"({_PLANE})?.find('stage').dataset.ready === 'true' && ({_PLANE}).marksCost !== undefined"
)

# Notes the time of every frame of the display, and how long the plane's own drawing took.
_RECORD = f"""() => {{
  const plane = {_PLANE};
  window.benchTicks = [];
  const tick = time => {{
    window.benchTicks?.push([time, plane.cost]);
    if (window.benchTicks) requestAnimationFrame(tick);
  }};
  requestAnimationFrame(tick);
}}"""


@dataclass(frozen=True)
class _Arguments:
    """What to measure.

    Args:
        checkpoint: The model that is opened, and after which the made-up samples are.
        points: Sizes of made-up reference sets, each opened after the model itself.
        json: Print one JSON document instead of a table.
    """

    checkpoint: str = "digits-2d"
    points: tuple[int, ...] = (10_000, 70_000)
    json: bool = False


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    flags = tyro.cli(_Arguments, prog="bench plane", description=TEXT, args=arguments)
    if not all(1 <= points <= _MOST_POINTS for points in flags.points):
        sys.exit(f"--points must lie in 1..{_MOST_POINTS}.")
    source = open_checkpoint(flags.checkpoint)
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="elboscope-bench-") as folder:
        crowds = _models(Path(folder), source, flags)
        with app_process("--checkpoints", folder) as (address, server), chromium() as running:
            # The server's own start, its imports, is not what is measured.
            page = new_page(running)
            _opened(page, f"{address}/latent_map?model={source.name}")
            page.context.close()
            for name, points in crowds.items():
                # Bars are for sets of up to 10,000 samples; larger ones are there to be told.
                measures += _figures(running, address, name, server.pid, points <= _BARRED)
    print_measures(measures, flags.json)


def _models(folder: Path, source: Checkpoint, flags: _Arguments) -> dict[str, int]:
    """Makes a folder of the model itself and of its crowds; the samples of each, by its name."""
    from bench.crowd import write_crowd
    from vae.store.registry import default_root, find

    given = Path(flags.checkpoint)
    path = given if given.is_dir() else find(flags.checkpoint, default_root()).path
    shutil.copytree(path, folder / source.name)
    crowds = {f"{source.name}-{points}": points for points in flags.points}
    for name, points in crowds.items():
        write_crowd(folder / name, source, points)
    return {source.name: source.reference.size, **crowds}


def _figures(running: Browser, address: str, name: str, pid: int, barred: bool) -> list[Measure]:
    """Opens one model's map and moves about on it."""
    url, measures = f"{address}/latent_map?model={name}", []
    opens, switches = (_OPENS, _SWITCHES) if barred else (None, None)
    page = new_page(running)
    took = _opened(page, url)
    measures.append(Measure(f"{name}: opened for the first time", took, "ms"))
    page.context.close()
    new = []
    for _ in range(_OPENINGS):
        page = new_page(running)
        new.append(_opened(page, url))
        again = [_opened(page, url) for _ in range(_OPENINGS)]
        if len(new) < _OPENINGS:
            page.context.close()
    measures += [
        Measure(f"{name}: opened by a new visitor", statistics.median(new), "ms", opens),
        Measure(f"{name}: opened again in one browser", statistics.median(again), "ms", opens),
    ]
    memory = _resident(pid)
    if memory is not None:
        measures.append(Measure(f"{name}: memory of the server", memory, "MB"))
    heap = page.evaluate("() => performance.memory?.usedJSHeapSize")
    if heap:
        measures.append(Measure(f"{name}: memory of the page's script", heap / 2**20, "MB"))
    calls: list[int] = []
    # The socket is open already; only what passes from now on counts.
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    for event in ("Network.webSocketFrameSent", "Network.webSocketFrameReceived"):
        session.on(event, lambda frame: calls.append(1))
    box = page.locator(".elb-plane .above").bounding_box()
    gestures = {"hover": False, "pan": True}
    for gesture, pressed in gestures.items():
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        if pressed:
            page.mouse.down()
        page.wait_for_timeout(400)
        calls.clear()
        page.evaluate(_RECORD)
        for step in range(_MOVES):
            swing = (abs(step % 80 - 40) - 20) / 20
            page.mouse.move(x + 0.35 * swing * box["width"], y + 0.2 * swing * box["height"])
        ticks = page.evaluate(
            "() => { const all = window.benchTicks; window.benchTicks = null; return all }"
        )
        heard = len(calls)
        if pressed:
            page.mouse.up()
        times = [tick for tick, _ in ticks]
        gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
        drawing = statistics.median(cost for _, cost in ticks)
        measures += [
            Measure(f"{name}: {gesture}, median frame", statistics.median(gaps), "ms", 17),
            Measure(f"{name}: {gesture}, 95th percentile", percentile(gaps, 0.95), "ms", 34),
            Measure(f"{name}: {gesture}, the plane's own part of it, median", drawing, "ms"),
            Measure(f"{name}: {gesture}, messages to or from the server", heard, "", 0),
        ]
        page.wait_for_timeout(400)
    measures.append(Measure(f"{name}: change of screen, warm", _switch(page), "ms", switches))
    marks = page.evaluate(f"() => {{ const plane = {_PLANE}; return plane.marksCost }}")
    measures.append(Measure(f"{name}: all marks drawn anew", marks, "ms"))
    page.context.close()
    return measures


def _switch(page: Page, turns: int = 5) -> float:
    """From the click on another screen's link back to the map, the median of some turns."""
    times = []
    for _ in range(turns):
        page.get_by_role("link", name="Traversals", exact=True).click()
        page.get_by_role("heading", name="Traversals").wait_for()
        link = page.get_by_role("link", name="Latent map", exact=True)
        times.append(clicked(page, f"() => {_READY}", link))
    return statistics.median(times)


def _opened(page: Page, url: str) -> float:
    """Milliseconds from asking for a map until it is drawn."""
    began = time.perf_counter()
    page.goto(url)
    page.locator(".elb-plane .stage[data-ready=true]").wait_for(timeout=1_000 * _OPENS_WITHIN)
    page.wait_for_function(f"() => {_PLANE}?.marksCost !== undefined")
    return 1_000 * (time.perf_counter() - began)


def _resident(pid: int) -> float | None:
    """The memory of a process in MB; none where the system has no such file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
