"""Films in Chromium: scrubbed by hand and by keyboard without the server, exported, on a phone."""

import re
import urllib.parse

import numpy as np
import pytest
import torch
from browser import IN_BROWSER, ROOT, lead, settle
from PIL import Image

import vae
from vae.elbo.tiles import decode_means
from vae.explore.traversals import prior_quantiles
from vae.figures.pictures import to_bytes

pytestmark = IN_BROWSER

SHOWN = """film => { const canvas = film.querySelector('.view canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return [canvas.width, canvas.height, Array.from(data.filter((_, i) => i % 4 === 0))]; }"""


def open_film(page, address, path):
    """Opens a screen with a film and counts what passes between browser and server from then."""
    page.calls = []
    page.on(
        "websocket",
        lambda socket: (
            socket.on("framesent", lambda data: page.calls.append(len(data))),
            socket.on("framereceived", lambda data: page.calls.append(len(data))),
        ),
    )
    page.goto(f"{address}{path}")
    film = page.locator(".film[data-film]").first
    film.wait_for()
    settle(page)
    # What the server still says after a screen stands, such as that its run has ended.
    page.wait_for_timeout(500)
    page.calls.clear()
    return film


def frame(film):
    return int(film.get_attribute("data-row")), int(film.get_attribute("data-frame"))


def pixels(film):
    width, height, red = film.evaluate(SHOWN)
    return np.array(red, dtype=np.uint8).reshape(height, width)


def decoded(model, sample, row, place):
    """The image at a place of the film that starts from a sample, by the decoder itself."""
    loaded = vae.load(ROOT / "checkpoints" / model)
    reference = loaded.reference
    variance = np.exp(reference.log_variance)
    kl = 0.5 * (reference.mu**2 + variance - 1 - reference.log_variance)
    dim = np.argsort(-kl.mean(0))[row]
    code = reference.mu[sample].copy()
    code[dim] = prior_quantiles(25)[place]
    return to_bytes(decode_means(loaded.model, torch.from_numpy(code[None]))[0].numpy())


@pytest.mark.parametrize("model", ["digits-2d", "sprites-10d"])
def test_a_hand_scrubs_without_the_server(server, page, model):
    film = open_film(page, server, f"/traversals?model={model}&sample=17")
    box = film.locator(".strip").nth(1).bounding_box()
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 3, height)
    page.mouse.down()
    shown = []
    for share in (0.02, 0.3, 0.62, 0.98):
        page.mouse.move(box["x"] + share * box["width"], height)
        page.wait_for_timeout(60)
        shown.append(frame(film))
        np.testing.assert_array_equal(pixels(film), decoded(model, 17, *shown[-1]))
    assert shown == [(1, 0), (1, 7), (1, 15), (1, 24)]
    assert page.calls == []
    # Letting go is what the server hears of.
    page.mouse.up()
    page.get_by_text("The chosen place").wait_for()
    assert page.calls
    place = page.locator("[data-testid=stMain] img[alt^='The image decoded at']")
    assert "prior quantile 99.0\u00a0%" in place.get_attribute("alt")
    assert frame(film) == (1, 24)


def test_the_keyboard_alone_scrubs_plays_and_commits(server, page):
    film = open_film(page, server, "/traversals?model=digits-10d")
    for _ in range(60):
        page.keyboard.press("Tab")
        if film.evaluate("film => film.getRootNode().activeElement?.className") == "strip":
            break
    else:
        pytest.fail("sixty tabs did not reach a strip")
    page.calls.clear()
    page.keyboard.press("Home")
    places = []
    for key in ("ArrowRight", "ArrowRight", "PageUp", "ArrowLeft", "End"):
        page.keyboard.press(key)
        page.wait_for_timeout(40)
        places.append(frame(film)[1])
    assert places == [1, 2, 7, 6, 24]
    np.testing.assert_array_equal(pixels(film), decoded("digits-10d", 0, 0, 24))
    assert page.calls == []
    strip = film.locator(".strip").first
    assert strip.get_attribute("aria-valuenow") == "24"
    assert "prior quantile 99.0\u00a0%" in strip.get_attribute("aria-valuetext")
    page.get_by_text("The chosen place").wait_for()  # the keys have been quiet for a while
    settle(page)

    before = frame(film)
    page.keyboard.press("Space")
    assert film.get_by_role("button").inner_text() == "Pause"
    page.wait_for_timeout(600)
    assert frame(film) != before
    page.keyboard.press("Space")
    assert film.get_by_role("button").inner_text() == "Play"
    page.keyboard.press("Tab")
    page.wait_for_timeout(60)
    assert frame(film)[0] == 1


def test_a_new_start_draws_the_films_anew(server, page):
    film = open_film(page, server, "/traversals?model=digits-10d&sample=3")
    known = film.get_attribute("data-film")
    page.get_by_role("button", name="Next", exact=True).click()
    page.locator(f".film[data-film]:not([data-film='{known}'])").wait_for()
    page.wait_for_timeout(100)
    np.testing.assert_array_equal(pixels(film), decoded("digits-10d", 4, *frame(film)))


def test_two_ways_move_together_over_their_profile(server, page):
    film = open_film(page, server, "/traversals?walk=Between+two+images&to=40")
    film.locator(".strip").first.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(60)
    assert film.locator(".view canvas").count() == 2
    cursors = film.locator(".cursor").evaluate_all("all => all.map(one => one.style.transform)")
    assert len(cursors) == 4 and len(set(cursors)) == 1
    values = film.locator(".track").first.inner_text()
    page.keyboard.press("End")
    page.wait_for_timeout(60)
    assert film.locator(".track").first.inner_text() != values
    ways = film.locator(".strip").evaluate_all("all => all.map(one => one.ariaValueNow)")
    assert ways == ["24", "24"]
    # Both ways end at the same image.
    first, second = (
        film.locator(".view canvas").nth(i).evaluate("one => one.toDataURL()") for i in (0, 1)
    )
    assert first == second


def test_the_overview_plays_unless_motion_is_unwelcome(server, chromium):
    for motion, word in (("no-preference", "Pause"), ("reduce", "Play")):
        context = chromium.new_context(reduced_motion=motion)
        screen = context.new_page()
        film = open_film(screen, server, "/")
        film.scroll_into_view_if_needed()
        assert film.get_by_role("button").inner_text() == word
        before = frame(film)
        screen.wait_for_timeout(500)
        assert (frame(film) == before) == (word == "Play")
        context.close()


def test_exports_open_and_have_every_frame(server, page, tmp_path):
    open_film(page, server, "/traversals?model=digits-10d")
    files = {}
    for kind in ("PNG", "GIF", "WebP", "CSV"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind, exact=True).click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    assert files["GIF"].name == "digits-10d-traversals.gif"
    for kind, count in (("PNG", 1), ("GIF", 25), ("WebP", 25)):
        with Image.open(files[kind]) as film:
            assert getattr(film, "n_frames", 1) == count, kind
            assert max(film.size) > 500
    lines = files["CSV"].read_text().splitlines()
    assert len(lines) == 1 + 10 * 25
    assert lines[0].startswith("dimension,frame,value,prior_share,z_1,")


def test_a_copied_link_restores_the_view(server, page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    film = open_film(page, server, "/traversals?model=digits-10d&sample=9")
    film.locator(".strip").nth(2).focus()
    page.keyboard.press("End")
    page.get_by_role("button", name="Start from here").click()
    page.get_by_text("Starting from the pasted code.").wait_for()
    page.get_by_text("± k posterior sd").click()
    page.get_by_label("k", exact=True).wait_for()
    settle(page)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("Copied. It restores this view.").wait_for()
    address = page.evaluate("() => navigator.clipboard.readText()")
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)
    assert asked["model"] == ["digits-10d"] and asked["sample"] == ["9"]
    assert asked["start"] == ["a pasted code"] and len(asked["z"][0].split(",")) == 10

    again = page.context.new_page()
    copy = open_film(again, server, address.removeprefix(server))
    assert copy.get_attribute("data-film") == film.get_attribute("data-film")


def test_a_bad_code_in_a_link_is_named(server, page):
    open_film(page, server, "/traversals?start=a+pasted+code&z=1,NaN")
    page.get_by_text("must be finite and at most 1000 in size").wait_for()
    page.get_by_text("Starting from sample 0.").wait_for()


@pytest.mark.parametrize("walk", ["Dimensions", "Between two images", "Sliders"])
def test_a_phone_shows_every_walk(server, chromium, walk):
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    phone = context.new_page()
    phone.goto(f"{server}/traversals?walk={urllib.parse.quote_plus(walk)}")
    lead(phone).wait_for(timeout=30_000)
    settle(phone)
    wide = "() => document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth"
    assert phone.evaluate(wide) <= 0
    if walk == "Dimensions":
        film = phone.locator(".film[data-film]")
        film.wait_for()
        strip = film.locator(".strip").first
        strip.scroll_into_view_if_needed()
        box = strip.bounding_box()
        assert box["height"] >= 44
        phone.touchscreen.tap(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
        phone.get_by_text("The chosen place").wait_for()
        assert frame(film) == (0, 24)
    context.close()


def test_the_film_follows_the_theme(server, chromium):
    grounds = set()
    for theme in ("light", "dark"):
        context = chromium.new_context(color_scheme=theme)
        screen = context.new_page()
        film = open_film(screen, server, "/traversals")
        colour = film.evaluate("film => getComputedStyle(film).color")
        grounds.add(tuple(int(part) > 127 for part in re.findall(r"\d+", colour)[:3]))
        context.close()
    assert grounds == {(False,) * 3, (True,) * 3}
