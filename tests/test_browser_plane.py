"""The plane in Chromium: hovering, choosing, circling, by mouse, by keyboard, on a phone."""

import re

import numpy as np
import pytest
import torch
from browser import IN_BROWSER, lead, settle

from vae.elbo.tiles import decode_means

pytestmark = IN_BROWSER

# Components live in shadow roots, which a plain query doesn't enter.
PLANE = """[...document.querySelectorAll('*')]
  .map(one => one.shadowRoot?.querySelector('.elb-plane')?.plane).find(Boolean)"""


def ask(page, expression):
    """A value of the plane, called ``plane`` in the expression."""
    return page.evaluate(f"() => {{ const plane = {PLANE}; return {expression} }}")


def open_map(page, server, query=""):
    page.goto(f"{server}/latent_map?{query}")
    lead(page).wait_for()
    ready(page)


def ready(page):
    page.locator(".elb-plane .stage[data-ready=true]").wait_for()
    settle(page)
    page.wait_for_function(f"() => {PLANE}.marksCost !== undefined")


def pixel(page, x, y):
    """Where a place of the plane is on the screen."""
    box = page.locator(".elb-plane .above").bounding_box()
    at = ask(page, f"[plane.view.x({x}), plane.view.y({y})]")
    return box["x"] + at[0], box["y"] + at[1]


def shown_image(page):
    """The pixels beside the plane, and the code at the middle of their cell."""
    page.wait_for_function(f"() => !{PLANE}.frame")
    cell = ask(
        page,
        "{slot: plane.cell.sheet.slot, side: plane.cell.sheet.side, row: plane.cell.row, "
        "column: plane.cell.column, window: plane.cell.sheet.window, "
        "width: plane.picture.canvas.width, height: plane.picture.canvas.height, "
        "data: [...plane.picture.getImageData(0, 0, plane.picture.canvas.width, "
        "plane.picture.canvas.height).data]}",
    )
    pixels = np.array(cell["data"], np.uint8).reshape(cell["height"], cell["width"], 4)
    left, bottom, right, top = cell["window"]
    code = (
        left + (right - left) * (cell["column"] + 0.5) / cell["side"],
        top - (top - bottom) * (cell["row"] + 0.5) / cell["side"],
    )
    return pixels[..., 0], code, cell


def decoded(checkpoint, code, hold=None, dims=(0, 1)):
    z = np.zeros((1, checkpoint.config.latent_dim)) if hold is None else hold[None].copy()
    z[0, list(dims)] = code
    image = decode_means(checkpoint.model, torch.from_numpy(z)).numpy()[0, 0]
    return np.rint(image * 255).astype(int)


def mean_kl(checkpoint):
    mu, log_variance = checkpoint.reference.mu, checkpoint.reference.log_variance
    return (0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance)).mean(0)


def test_hovering_shows_what_the_decoder_draws_there_and_asks_nobody(server, page, checkpoint):
    open_map(page, server, "sample=3")
    model = checkpoint("digits-2d")
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    calls = []
    session.on("Network.webSocketFrameSent", lambda frame: calls.append(frame))
    seen = []
    for place in ((-1.7, 1.2), (0.4, 0.9), (2.1, 0.8), (0.1, -2.2), (-0.7, 0.3)):
        page.mouse.move(*pixel(page, *place))
        pixels, code, cell = shown_image(page)
        assert np.abs(np.subtract(code, place)).max() < 8.5 / cell["side"]
        # One level of 255 is what rounding may do between two machines' sums.
        assert np.abs(pixels - decoded(model, code)).max() <= 1
        seen.append(pixels.tobytes())
    assert len(set(seen)) == 5
    assert calls == []


def test_a_zoom_brings_a_finer_lattice_and_images(server, page, checkpoint):
    open_map(page, server, "sample=3")
    page.mouse.move(*pixel(page, -0.7, 0.3))
    for _ in range(6):
        page.mouse.wheel(0, -300)
    page.wait_for_function(f"() => {PLANE}.slot('fine') && {PLANE}.slot('thumbnails')")
    page.wait_for_function(f"() => {PLANE}.drawnAs === 'images'")
    page.mouse.move(*pixel(page, -0.7, 0.3))
    pixels, code, cell = shown_image(page)
    assert cell["slot"] == "fine"
    assert np.abs(np.subtract(code, (-0.7, 0.3))).max() < 0.02
    assert np.abs(pixels - decoded(checkpoint("digits-2d"), code)).max() <= 1
    left = ask(page, "plane.view.left")
    page.get_by_role("link", name="Traversals", exact=True).click()
    page.get_by_role("heading", name="Traversals").wait_for()
    page.get_by_role("link", name="Latent map", exact=True).click()
    ready(page)
    assert ask(page, "plane.view.left") == pytest.approx(left, abs=1e-6)
    page.get_by_label("Show everything").click()
    page.wait_for_function(f"() => {PLANE}.view.isHome && {PLANE}.drawnAs === 'shapes'")
    page.wait_for_function(f"() => !{PLANE}.slot('fine')")


def test_more_dimensions_are_a_slice_through_the_sample(server, page, checkpoint):
    open_map(page, server, "model=digits-10d&sample=5&across=z7&up=z3")
    page.get_by_text("hold the other 8 at sample 5's values").wait_for()
    page.mouse.move(*pixel(page, 1.1, -0.6))
    pixels, code, _ = shown_image(page)
    model = checkpoint("digits-10d")
    assert np.abs(pixels - decoded(model, code, model.reference.mu[5], (6, 2))).max() <= 1


def test_a_click_chooses_a_sample_everywhere(server, page, checkpoint):
    open_map(page, server, "sample=3")
    mu = checkpoint("digits-2d").reference.mu
    # A sample far from all others, so that the click is for no other.
    distance = np.linalg.norm(mu[:, None] - mu, axis=-1) + np.diag(np.full(len(mu), np.inf))
    lone = int(distance.min(1).argmax())
    page.mouse.click(*pixel(page, *mu[lone]))
    page.get_by_text(f"Sample {lone} pays").wait_for()
    page.wait_for_url(f"**sample={lone}**")
    page.get_by_role("heading", name=f"Sample {lone}", exact=True).wait_for()
    settle(page)
    shown = page.locator(".elb-sums tr", has_text="ELBO").last.inner_text()
    number = float(re.search(r"[-\d.]+", shown.replace("\N{MINUS SIGN}", "-")).group())
    assert number == pytest.approx(checkpoint("digits-2d").reference.elbo[lone], abs=1e-3)


def test_a_loop_makes_a_group_that_survives_another_colour(server, page, checkpoint, tmp_path):
    open_map(page, server, "sample=3")
    mu = checkpoint("digits-2d").reference.mu
    low, high = np.array([-1.2, -0.1]), np.array([-0.4, 0.8])
    corners = [low, (high[0], low[1]), high, (low[0], high[1])]
    rows = np.flatnonzero(((mu > low) & (mu < high)).all(1))
    assert 20 < len(rows) < 200
    page.keyboard.down("Shift")
    page.mouse.move(*pixel(page, *corners[0]))
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*pixel(page, *corner), steps=5)
    page.mouse.up()
    page.keyboard.up("Shift")
    heading = page.get_by_role("heading", name=re.compile(r"The group: \d+ samples"))
    heading.wait_for()
    # A point within a pixel of the loop may fall on either side.
    shown = int(re.search(r"\d+", heading.inner_text()).group())
    assert abs(shown - len(rows)) <= 2
    ready(page)
    page.get_by_label("Colour by").click()
    page.get_by_role("option", name="ELBO", exact=True).click()
    page.wait_for_function(f"() => {PLANE}.slot('colour')?.title === 'ELBO'")
    settle(page)
    assert ask(page, "plane.slot('group').members.reduce((a, b) => a + b)") == shown
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    download.value.save_as(tmp_path / "group.csv")
    lines = (tmp_path / "group.csv").read_text().splitlines()
    assert lines[0].startswith("sample,index,label,split,elbo,")
    saved = {int(line.split(",")[0]) for line in lines[1:]}
    assert len(saved) == shown
    assert len(saved ^ set(rows.tolist())) <= 2
    page.get_by_label("Forget the group (key Escape)").click()
    heading.wait_for(state="detached")


def test_the_keyboard_alone_finds_decodes_and_chooses(server, page, checkpoint):
    open_map(page, server, "sample=3")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.shadowRoot?.activeElement?.className") == (
            "above"
        ):
            break
    else:
        pytest.fail("sixty tabs did not reach the plane")
    mu = checkpoint("digits-2d").reference.mu
    assert ask(page, "plane.cursor") == pytest.approx(mu[3].tolist(), abs=1e-3)
    before = shown_image(page)[1]
    for _ in range(4):
        page.keyboard.press("Shift+ArrowUp" if mu[3, 1] < 0 else "Shift+ArrowDown")
    pixels, code, _ = shown_image(page)
    assert abs(code[1] - before[1]) > 1
    assert np.abs(pixels - decoded(checkpoint("digits-2d"), code)).max() <= 1
    cursor = np.array(ask(page, "plane.cursor"))
    nearest = int(np.linalg.norm(mu - cursor, axis=1).argmin())
    page.keyboard.press("+")
    assert ask(page, "plane.view.zoom") == pytest.approx(1.4)
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.get_by_text(f"Sample {nearest} pays").wait_for()
    ready(page)
    # A loop by corners: around everything, so that all are in.
    page.keyboard.press("l")
    for keys in (["ArrowUp"] * 40 + ["ArrowLeft"] * 40, ["ArrowDown"] * 40, ["ArrowRight"] * 40):
        for key in keys:
            page.keyboard.press(f"Shift+{key}")
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile(r"The group: \d+ samples")).wait_for()


def test_a_choice_is_not_lost_to_what_follows_before_python_has_answered(server, page):
    open_map(page, server, "sample=3")
    page.evaluate(
        f"""async () => {{ const plane = {PLANE};
        const wait = () => new Promise((done) => setTimeout(done, 25));
        plane.tell("view", [-1, -1, 1, 1]);
        await wait();
        plane.pick(11);
        await wait();
        plane.tell("view", [-0.5, -0.5, 0.5, 0.5]); }}"""
    )
    page.get_by_text("Sample 11 pays").wait_for()


def test_a_phone_probes_with_one_finger_and_zooms_with_two(server, chromium):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(30_000)
    open_map(page, server, "sample=3")
    canvas = page.locator(".elb-plane .above")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    session = context.new_cdp_session(page)

    def touch(kind, *points):
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": k} for k, x, y in points]},
        )

    start, end = pixel(page, -1, 0.5), pixel(page, 1.5, 1.5)
    touch("touchStart", (0, *start))
    touch("touchMove", (0, *end))
    page.wait_for_function(f"() => {PLANE}.cursor?.[0] > 1")
    assert ask(page, "plane.view.isHome")
    touch("touchEnd")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch("touchStart", (0, x - 20, y), (1, x + 20, y))
    touch("touchMove", (0, x - 60, y), (1, x + 60, y))
    page.wait_for_function(f"() => {PLANE}.view.zoom > 2")
    touch("touchEnd")
    context.close()


def test_what_lies_beyond_the_first_view_is_counted_and_reached(server, page, checkpoint):
    open_map(page, server, "sample=3")
    mu = checkpoint("digits-2d").reference.mu
    # The same codes, of which the first view frames but the middle.
    ask(
        page,
        "plane.update({...plane.data, home: [-1, -1, 1, 1], whole: plane.data.home, "
        "geometry: 'framed'}, plane.send)",
    )
    page.wait_for_function(f"() => !{PLANE}.frame")
    left, bottom, right, top = ask(page, "Object.values(plane.view.copy())")
    inside = (mu > (left, bottom)).all(1) & (mu < (right, top)).all(1)
    assert 0 < ask(page, "plane.beyond().count") == np.count_nonzero(~inside)
    whole = ask(page, "plane.view.whole")
    page.get_by_label("Show everything").click()
    assert ask(page, "plane.view.left") == pytest.approx(whole["left"])
    assert ask(page, "plane.beyond().count") == 0
    page.get_by_label("Show everything").click()
    assert ask(page, "plane.view.isHome")
    page.mouse.move(*pixel(page, 0, 0))
    for _ in range(30):
        page.mouse.wheel(0, 300)
    assert ask(page, "plane.view.left") < whole["left"]


def test_names_on_the_plane_keep_out_of_each_others_way(server, page):
    open_map(page, server, "sample=3")
    # A class's name where a ring's would stand.
    ask(
        page,
        "plane.update({...plane.data, labels: [{text: 'nine', at: "
        "plane.data.lines[0].points.at(-1)}]}, plane.send)",
    )
    found = page.evaluate(
        f"""() => {{ const plane = {PLANE}, words = [], write = plane.below.fillText;
        plane.below.fillText = function (text, x, y) {{
          words.push([text, x, y, this.measureText(text).width]);
          return write.call(this, text, x, y);
        }};
        plane.belowIsOld = true;
        plane.draw();
        plane.below.fillText = write;
        return words; }}"""
    )
    names = [word for word in found if word[0] == "nine" or word[0].startswith("prior")]
    assert len(names) == 4
    for k, (_, x, y, width) in enumerate(names):
        for _, other_x, other_y, other_width in names[:k]:
            assert abs(y - other_y) > 11 or abs(x - other_x) > (width + other_width) / 2


def test_all_pairs_open_a_pair(server, page, checkpoint):
    open_map(page, server, "model=digits-10d&sample=5")
    page.get_by_text("All pairs of dimensions").click()
    panels = page.locator(".js-plotly-plot .scatterlayer .point")
    panels.first.wait_for()
    settle(page)
    panels.nth(2).scroll_into_view_if_needed()
    box = panels.nth(2).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**across=**")
    ready(page)
    # The third of the small maps, by rows: the second column of the second row.
    by_kl = [f"z{d + 1}" for d in np.argsort(-mean_kl(checkpoint("digits-10d")))]
    assert ask(page, "plane.data.names") == [by_kl[1], by_kl[2]]


def test_settings_stand_in_the_link_and_bad_ones_are_named(server, page):
    open_map(page, server, "model=digits-10d&colour=ELBO&view=PCA&layers=decoded+images")
    assert ask(page, "plane.slot('colour').title") == "ELBO"
    assert ask(page, "plane.data.layers.lattice")
    assert "component 1" in ask(page, "plane.data.axes[0]")
    page.wait_for_function(f"() => {PLANE}.theme.ground.toLowerCase() === '#ffffff'")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => {PLANE}.theme?.ground.toLowerCase() === '#10141b'")
    open_map(page, server, "model=digits-10d&across=z77&colour=taste&layers=icing")
    page.get_by_text("a dimension across “z77” that this model doesn't have").wait_for()
    page.get_by_text("a colouring “taste”").wait_for()
    page.get_by_text("a layer “icing”").wait_for()
    assert page.get_by_text("Traceback").count() == 0
