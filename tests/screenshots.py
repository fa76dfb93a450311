"""Takes a picture of every screen: make screenshots, or PYTHONPATH=. python tests/screenshots.py

Without arguments every screen of the navigation is taken whole, light and dark, 1440 and 390
pixels wide. With --readme only the README's pictures are taken, into tests/screenshots/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from PIL import Image

from tests.browser import CHROMIUM, FLAGS, ROOT, running_app
from vae.ui.screens import SCREENS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

README_FOLDER = ROOT / "tests" / "screenshots"
README_SCREENS = ("latent_map", "sample_elbo")
README_MODEL, README_SAMPLE = "digits-2d", 17
MOST_BYTES = 200_000

# Taller than any screen should be; a picture that reaches it is cut, and said to be.
MOST_HEIGHT = 12_000

_SETTLES_WITHIN = 120

# No script runs, nothing is a skeleton or stale, every picture is decoded, every chart has marks.
# What is folded away is not drawn, and is not waited for.
_DRAWN = """() => {
  const all = query => [...document.querySelectorAll(query)].filter(
    element => element.checkVisibility());
  const state = document.querySelector('[data-testid=stApp]')
    ?.getAttribute('data-test-script-state');
  return state === 'notRunning'
    && all('[data-testid=stMain] h1, [data-testid=stException]').length > 0
    && !all('[data-testid=stSkeleton], [data-testid=stSpinner], [data-stale=true]').length
    && all('img').every(image => image.complete)
    && all('[data-testid=stPlotlyChart]').every(chart => chart.querySelector('.main-svg'))
    && all('[data-testid=stDataFrame]').every(table => table.querySelector('canvas'))
    && all('*').map(one => one.shadowRoot?.querySelector('.elb-plane')).filter(Boolean).every(
      plane => plane.querySelector('.stage').dataset.ready === 'true')
    && document.fonts.status === 'loaded';
}"""

# Streamlit scrolls inside of the page, so that the page itself is never longer than the window. On
# a phone the sidebar lies to the left of what is seen.
_HEIGHT = """() => Math.max(...['stMain', 'stSidebarContent']
  .map(name => document.querySelector(`[data-testid=${name}]`))
  .map(part => part?.getBoundingClientRect().right > 0 ? part.scrollHeight : 0))"""

_OPEN_EXPANDERS = """() => document.querySelectorAll(
  '[data-testid=stMain] details:not([open]) > summary').forEach(one => one.click())"""


def main() -> int:
    """Takes the pictures and prints where they are and how long each screen took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="the folder; a temporary one when not given")
    parser.add_argument("--readme", action="store_true", help="only the README's pictures")
    parser.add_argument("--model", help="the model shown; the app's default when not given")
    parser.add_argument("--sample", type=int, help="the sample shown, by its number")
    parser.add_argument("--only", choices=screens(), nargs="+", help="only these screens")
    parser.add_argument("--expanded", action="store_true", help="open what is folded away")
    flags = parser.parse_args()
    if CHROMIUM is None:
        print("Chromium is not installed, and the pictures are its.", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    with running_app() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            if flags.readme:
                return min(1, readme_pictures(browser, address))
            out = flags.out or Path(tempfile.mkdtemp(prefix="elboscope-screens-"))
            out.mkdir(parents=True, exist_ok=True)
            query = {"model": flags.model, "sample": flags.sample}
            query = {key: value for key, value in query.items() if value is not None}
            names = flags.only or screens()
            unfinished = every_picture(browser, address, out, names, query, flags.expanded)
            print(out)
            return min(1, unfinished)
        finally:
            browser.close()


def screens() -> list[str]:
    """The names of the screens in the navigation, in its order."""
    return [name for section in SCREENS.values() for name in section]


def every_picture(
    browser: Browser,
    address: str,
    out: Path,
    names: Sequence[str],
    query: dict[str, object],
    expanded: bool = False,
) -> int:
    """Takes screens whole, light and dark, wide and narrow, and prints how long each took.

    Returns:
        The number of pictures of a screen that was not drawn in time, or is longer than they are.
    """
    unfinished = 0
    for width, theme in [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]:
        with context(browser, width, theme) as tab:
            for name in names:
                page = tab.new_page()
                start = time.monotonic()
                ready = open_screen(page, address, name, query)
                seconds = time.monotonic() - start
                if expanded:
                    page.evaluate(_OPEN_EXPANDERS)
                    ready = drawn(page) and ready
                height = whole(page)
                file = out / f"{name}-{width}-{theme}.png"
                page.screenshot(path=file)
                notes = ["" if ready else "NOT DRAWN", "CUT" if height > MOST_HEIGHT else ""]
                unfinished += any(notes)
                line = f"{file.name:<34} {seconds:6.1f} s  {width} x {height}  {' '.join(notes)}"
                print(line.rstrip(), flush=True)
                page.close()
    return unfinished


def readme_pictures(browser: Browser, address: str) -> int:
    """Takes the README's pictures, as much as a window of 1440 by 900 shows."""
    README_FOLDER.mkdir(exist_ok=True)
    query = {"model": README_MODEL, "sample": README_SAMPLE}
    unfinished = 0
    with context(browser, 1440, "light") as tab:
        for name in README_SCREENS:
            page = tab.new_page()
            ready = open_screen(page, address, name, query)
            file = README_FOLDER / f"{name}.png"
            if ready:
                file.write_bytes(small_png(page.screenshot()))
                print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1e3:.0f} kB")
            else:
                print(f"{file.relative_to(ROOT)}: NOT DRAWN, left as it was", file=sys.stderr)
            unfinished += not ready
            page.close()
    return unfinished


@contextmanager
def context(browser: Browser, width: int, theme: str) -> Iterator[BrowserContext]:
    """A fresh visitor with a window of some width who prefers a theme."""
    phone = width < 600
    tab = browser.new_context(
        viewport={"width": width, "height": 844 if phone else 900},
        color_scheme=theme,
        device_scale_factor=2 if phone else 1,
        is_mobile=phone,
        has_touch=phone,
        reduced_motion="reduce",
    )
    yield tab
    tab.close()


def open_screen(page: Page, address: str, name: str, query: dict[str, object]) -> bool:
    """Opens a screen and waits until it is drawn; whether it came to that."""
    page.goto(f"{address}/{'' if name == screens()[0] else name}?{urlencode(query)}")
    return drawn(page)


def drawn(page: Page) -> bool:
    """Waits until a screen is drawn and stays so for half a second; whether it came to that."""
    calm = 0
    deadline = time.monotonic() + _SETTLES_WITHIN
    while calm < 5:
        if time.monotonic() > deadline:
            return False
        calm = calm + 1 if page.evaluate(_DRAWN) else 0
        page.wait_for_timeout(100)
    return True


def whole(page: Page) -> int:
    """Makes the window as high as the screen, and returns the height of the screen."""
    width = page.viewport_size["width"]
    height = 0
    # Once more, because what fills the window may grow with it.
    for _ in range(2):
        height = max(page.viewport_size["height"], page.evaluate(_HEIGHT))
        page.set_viewport_size({"width": width, "height": min(height, MOST_HEIGHT)})
        drawn(page)
    return height


def small_png(png: bytes) -> bytes:
    """The picture with as many colours as fit into the README's limit.

    Raises:
        ValueError: If sixteen colours are still too many.
    """
    picture = Image.open(BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        buffer = BytesIO()
        # The method that keeps rare colours, such as a ring's; dithering would speckle the ground.
        fewer = picture.quantize(
            colours, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
        )
        fewer.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise ValueError(f"the picture stays above {MOST_BYTES / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
