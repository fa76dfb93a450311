"""The main flow in Chromium, against a real server on 127.0.0.1."""

import csv
import json
import re
import subprocess
import sys
import urllib.request

import pytest
from browser import IN_BROWSER, ROOT, lead, settle

pytestmark = IN_BROWSER


def test_main_flow(server, page, tmp_path):
    page.goto(server)
    lead(page).wait_for()
    assert "200 validation images" in lead(page).inner_text()

    page.get_by_label("Sample", exact=True).fill("17")
    page.get_by_label("Sample", exact=True).press("Enter")
    page.get_by_text("Sample 17:").wait_for()
    assert "sample=17" in page.url

    page.get_by_role("link", name="Traversals", exact=True).click()
    page.locator(".film[data-film] .strip").first.wait_for()
    page.get_by_text("Starting from sample 17.").wait_for()
    settle(page)
    assert page.locator(".film .strip").count() == 2

    page.get_by_role("link", name="Score images", exact=True).click()
    page.get_by_text("Download this sample as PNG").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download this sample as PNG").click()
    png = tmp_path / "seventeen.png"
    download.value.save_as(png)
    settle(page)

    page.locator("input[type=file]").set_input_files(png)
    page.get_by_text("seventeen.png scores an ELBO of").wait_for()
    shown = page.locator(".elb-sums tr", has_text="ELBO").last.inner_text()
    shown = float(re.search(r"[-\d.]+", shown.replace("\N{MINUS SIGN}", "-")).group())

    result = subprocess.run(
        [sys.executable, "-m", "vae", "score", "digits-2d", str(png), "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    row = json.loads(result.stdout)[0]
    assert row["name"] == "seventeen.png"
    assert shown == pytest.approx(row["elbo"], abs=1e-4)

    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    download.value.save_as(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        downloaded = next(csv.DictReader(file))
    assert float(downloaded["elbo"]) == pytest.approx(row["elbo"], abs=1e-4)


def test_a_link_restores_model_and_sample(server, page):
    page.goto(f"{server}/sample_elbo?model=digits-10d&sample=42")
    lead(page).wait_for()
    assert lead(page).inner_text().startswith("Sample 42 costs")
    page.get_by_text("Sample 42:").wait_for()
    page.get_by_role("link", name="Latent map", exact=True).click()
    page.get_by_text("Sample 42 pays").wait_for()
    page.go_back()
    page.get_by_text("Sample 42 costs").wait_for()


def test_a_bad_link_is_explained(server, page):
    page.goto(f"{server}/?model=nothing&sample=1e400")
    page.get_by_text("names a model “nothing” that isn't here").wait_for()
    page.get_by_text("names a sample “1e400”").wait_for()
    assert page.get_by_text("Traceback").count() == 0


def test_refused_files_stand_beside_scored_ones(server, page, tmp_path):
    good = ROOT / "vae" / "ui" / "mark.svg"
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    page.goto(f"{server}/score_images")
    lead(page).wait_for()
    page.locator("input[type=file]").set_input_files([bad, good])
    page.get_by_text("was not scored").wait_for()
    assert page.get_by_text("Traceback").count() == 0


def stroke(page, *places):
    """Draws through places of the pad, as shares of its width and height."""
    canvas = page.get_by_label("Drawing pad")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def test_a_drawing_is_scored_and_can_be_taken_back(server, page):
    page.goto(f"{server}/score_images?source=Draw")
    page.get_by_text("Draw something").wait_for()
    undo = page.get_by_role("button", name="Undo", exact=True)
    assert undo.is_disabled()
    stroke(page, (0.25, 0.2), (0.75, 0.2), (0.45, 0.85))
    page.get_by_text("drawing.png scores an ELBO of").wait_for()
    settle(page)
    one_stroke = lead(page).inner_text()
    assert page.get_by_text("Cropped to the content").count() == 1

    stroke(page, (0.3, 0.55), (0.7, 0.55))
    page.wait_for_function(
        "old => (document.querySelector('.elb-lead')?.innerText ?? old) !== old", arg=one_stroke
    )
    settle(page)
    undo.click()
    page.wait_for_function(
        "old => document.querySelector('.elb-lead')?.innerText === old", arg=one_stroke
    )
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_text("Draw something").wait_for()


def test_the_keyboard_alone_draws(server, page):
    page.goto(f"{server}/score_images?source=Draw")
    page.get_by_text("Draw something").wait_for()
    settle(page)
    page.get_by_label("Drawing pad").focus()
    page.keyboard.press("Space")
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    page.get_by_text("drawing.png scores an ELBO of").wait_for()
    page.keyboard.press("Backspace")
    page.get_by_text("Draw something").wait_for()


def test_a_folder_and_its_scores_over_http(server, page, tmp_path):
    """The screen's table downloaded as JSON equals the rows of the call that it shows."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for n in range(10):
        pixels = np.pad(rng.integers(0, 256, (6, 4)), ((1, 1), (2, 2))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    (tmp_path / "notes.txt").write_text("no image")
    page.goto(f"{server}/score_images?source=Folder")
    page.get_by_text("Choose a folder").first.wait_for()
    settle(page)
    page.locator("input[type=file]").set_input_files(tmp_path)
    page.get_by_text("Most surprising first").wait_for()
    settle(page)
    with page.expect_download() as download:
        page.get_by_text("Download JSON").click()
    download.value.save_as(tmp_path / "scores.json")
    rows = {row["name"]: row for row in json.loads((tmp_path / "scores.json").read_text())}
    assert sorted(rows) == [f"{n}.png" for n in range(10)]

    page.get_by_text("The same on the command line and over HTTP").click()
    call = page.locator("code", has_text="curl").inner_text()
    address = re.search(r"'(http.+)'", call).group(1)
    assert address.startswith(server)
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%d.png"\r\n\r\n%b\r\n'
        % (n, (tmp_path / f"{n}.png").read_bytes())
        for n in range(10)
    )
    request = urllib.request.Request(
        address, body + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert {row["name"]: row for row in json.loads(response.read())} == rows


def test_touch_draws(server, chromium):
    context = chromium.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(f"{server}/score_images?source=Draw")
    page.get_by_text("Draw something").wait_for()
    settle(page)
    page.get_by_label("Drawing pad").tap()
    page.get_by_text("drawing.png scores an ELBO of").wait_for()
    context.close()


@pytest.mark.parametrize("screen", [path.stem for path in sorted((ROOT / "pages").glob("*.py"))])
def test_no_screen_overflows_a_phone(server, chromium, screen):
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(f"{server}/{screen}")
    page.locator(".elb-lead").first.wait_for(timeout=30_000)
    settle(page)
    wide = page.evaluate(
        "() => document.querySelector('[data-testid=stMain]').scrollWidth - window.innerWidth"
    )
    assert wide <= 0
    assert page.locator("img:not([alt])").count() == 0
    context.close()


def test_the_keyboard_opens_what_a_nat_is(server, page):
    page.goto(f"{server}/sample_elbo")
    lead(page).wait_for()
    settle(page)
    chip = page.locator("summary", has_text="nats:")
    meaning = page.get_by_text("1 nat = 1.44 bits")
    assert not meaning.is_visible()
    chip.focus()
    page.keyboard.press("Enter")
    meaning.wait_for()
    page.keyboard.press("Enter")
    meaning.wait_for(state="hidden")


def test_the_keyboard_alone_reaches_a_sample(server, page):
    page.goto(f"{server}/sample_elbo")
    lead(page).wait_for()
    settle(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        label = page.evaluate("() => document.activeElement.innerText || ''")
        if label.strip() == "Next":
            break
    else:
        pytest.fail("forty tabs did not reach Next")
    page.keyboard.press("Enter")
    page.get_by_text("Sample 1 costs").wait_for()


def test_picking_a_sample_updates_receipt_and_ladder(server, page):
    page.goto(f"{server}/sample_elbo?sample=11")
    page.get_by_text("Sample 11 costs").wait_for()
    first = page.locator(".elb-sums").first.inner_text()
    page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_text("Sample 12 costs").wait_for()
    settle(page)
    assert page.locator(".elb-sums").first.inner_text() != first

    page.get_by_role("link", name="The bound", exact=True).click()
    page.get_by_text("By its ELBO sample 12 costs").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    sentence, ladder = lead(page).inner_text(), page.locator(".elb-ladder").inner_text()
    assert "log p(x), exact" in ladder and "L, k = 5,000" in ladder
    page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_text("By its ELBO sample 13 costs").wait_for()
    settle(page)
    assert lead(page).inner_text() != sentence
    assert page.locator(".elb-ladder").inner_text() != ladder


def test_company_leaves_the_kl_alone_and_sigma_sets_the_cost(server, page):
    page.goto(f"{server}/kl_per_sample?sample=5&misconception=0.5")
    page.get_by_text("Largest difference in this image's own numbers: 0 nats").wait_for()
    # Identity 6: the KL per sample is minus log sigma, 0.693 at one half and 1.609 at one fifth.
    page.get_by_text("= 0.693 nats").wait_for()
    settle(page)
    page.get_by_role("slider", name="σ of each image's own code").press("ArrowLeft")
    page.get_by_text("= 0.799 nats").wait_for()
    page.goto(f"{server}/kl_per_sample?sample=5&misconception=0.2")
    page.get_by_text("= 1.609 nats").wait_for()
    page.get_by_text("a penalty on it costs nothing").wait_for()


def test_a_wrong_reduction_shows_its_effective_beta(server, page):
    page.goto(f"{server}/kl_per_sample")
    lead(page).wait_for()
    settle(page)
    page.get_by_text("This is the ELBO").wait_for()
    page.get_by_label("How the loss reduces it").click()
    page.get_by_role("option", name="Mean over everything in both terms").click()
    # 64 pixel values over 2 latent dimensions.
    page.get_by_text("β = 32 in disguise").wait_for()


def test_a_bar_of_the_receipt_opens_into_its_pixels(server, page):
    page.goto(f"{server}/sample_elbo?sample=17")
    page.get_by_text("Sample 17 costs").wait_for()
    settle(page)
    bars = page.locator(".js-plotly-plot .barlayer .trace").first.locator(".point path")
    bars.first.wait_for()
    # Two latent dimensions come first, so the fourth bar is block b1.
    bars.nth(3).scroll_into_view_if_needed()
    box = bars.nth(3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    caption = page.get_by_text("the bar “pixels b1”")
    caption.wait_for()
    told = float(re.search(r"sum to ([\d.]+) nats", plain(caption.inner_text())).group(1))
    page.locator(".js-plotly-plot .heatmaplayer text").nth(3).wait_for()
    cells = page.locator(".js-plotly-plot .heatmaplayer text").all_text_contents()
    assert len(cells) == 4
    assert sum(float(plain(cell)) for cell in cells) == pytest.approx(told, abs=2e-3)


def test_a_thumbnail_chooses_its_sample_by_mouse_and_by_keyboard(server, page):
    page.goto(f"{server}/sample_elbo?sample=17")
    page.get_by_text("Sample 17 costs").wait_for()
    worst = page.locator(".elb-thumbs button").first
    worst.wait_for()
    number = re.search(r"\d+", worst.inner_text()).group()
    worst.click()
    page.get_by_text(f"Sample {number} costs").wait_for()
    assert f"sample={number}" in page.url
    settle(page)
    second = page.locator(".elb-thumbs button").nth(1)
    number = re.search(r"\d+", second.inner_text()).group()
    second.focus()
    page.keyboard.press("Enter")
    page.get_by_text(f"Sample {number} costs").wait_for()


def test_annealing_counts_and_can_be_cancelled(server, page):
    page.goto(f"{server}/bound?model=sprites-10d&sample=3")
    page.get_by_role("button", name="Run annealed importance sampling").click()
    page.get_by_text(re.compile(r"Annealing 64 chains: \d+% done")).wait_for(timeout=60_000)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Run annealed importance sampling").wait_for()
    settle(page)
    assert page.get_by_text("log p(x) ≈").count() == 0


def plain(text):
    return text.replace("\N{MINUS SIGN}", "").replace(",", "").replace("-", "")


_SCREEN = """<div data-testid="stApp" data-test-script-state="notRunning">
  <section data-testid="stMain"><h1>The same</h1><p id="number">1</p></section>
  <button>Next</button></div>"""
_RUN = """document.querySelector('button').addEventListener('click', () => setTimeout(() => {
  const app = document.querySelector('[data-testid=stApp]');
  app.dataset.testScriptState = 'running';
  document.getElementById('number').textContent = 2;
  app.dataset.testScriptState = 'notRunning';
}, 100))"""


def test_a_run_within_one_frame_counts_as_a_run(page) -> None:
    from bench.chromium import clicked
    from bench.screens import _WHOLE
    from playwright.sync_api import TimeoutError

    page.set_default_timeout(2_000)
    page.set_content(_SCREEN)
    button = page.get_by_role("button", name="Next")
    with pytest.raises(TimeoutError):
        clicked(page, _WHOLE, button)
    page.evaluate(_RUN)
    assert clicked(page, _WHOLE, button) > 0
    assert page.locator("#number").text_content() == "2"
